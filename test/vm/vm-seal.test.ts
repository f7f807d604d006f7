import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { SealOptions, SealResult } from '../../src/vm/index.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

const TEST_TIMEOUT_MS = 90_000

let bench: Bench
let node: TestNode

beforeAll(async () => {
  bench = await Bench.create()
})
afterAll(() => bench[Symbol.asyncDispose]())
beforeEach(async () => {
  node = await bench.start()
  await node.vms.run({ name: 'a', templateRef: 'base', nics: [] }, { signal: signal() })
})
afterEach(async () => {
  for (const { spec } of node.vms.list()) {
    await node.vms.stopVm(spec.id, { force: true, signal: signal() })
    await node.vms.remove(spec.id)
  }
  await node.stop()
})

function signal(): AbortSignal {
  return AbortSignal.timeout(TEST_TIMEOUT_MS)
}

/** Seals `a`; does something else when its memory begins to be copied. */
function sealWhile(meanwhile: () => void, options: Partial<SealOptions> = {}): Promise<SealResult> {
  return node.vms.seal('a', 'sealed', {
    signal: signal(),
    onProgress: (step) => {
      if (step === 'rounds') meanwhile()
    },
    ...options,
  })
}

async function expectOnlyBase(): Promise<void> {
  expect(await readdir(join(bench.dataDir, 'templates'))).toEqual([node.templates.resolve('base').id])
}

async function expectRunning(): Promise<void> {
  expect(node.vms.get('a').state).toMatchObject({ kind: 'running', paused: false })
  expect(await node.vms.show('a')).toMatchObject({ runState: 'running' })
  await using console = await node.console('a')
  expect(await console.run('echo $((6 * 7))')).toBe('42')
}

test('meanwhile it is not moved and not sealed once more, and runs on', async () => {
  let others: Promise<PromiseSettledResult<unknown>[]> | null = null
  const { record, parent } = await sealWhile(() => {
    others = Promise.allSettled([
      node.vms.depart('a', 'a-move'),
      node.vms.seal('a', 'other', { signal: signal() }),
      node.vms.seal('a', 'sealed', { signal: signal() }),
    ])
  })
  expect(await others).toMatchObject([
    { status: 'rejected', reason: { code: 'VM_BUSY' } },
    { status: 'rejected', reason: { code: 'VM_BUSY' } },
    { status: 'rejected', reason: { code: 'NAME_TAKEN' } },
  ])
  expect(parent).toBe(node.templates.resolve('base').id)
  await expectRunning()
  // Given back: a move may have it now.
  const departing = await node.vms.depart('a', 'a-move')
  await expect(node.vms.seal('a', 'other', { signal: signal() })).rejects.toMatchObject({ code: 'VM_BUSY' })
  await departing.stay()
  await node.templates.remove(record.id)
})

test('meanwhile it can be paused, and is sealed as it stands', async () => {
  let pausing: Promise<void> | null = null
  const { record, blackoutMs } = await sealWhile(() => {
    pausing = node.vms.pause('a', { signal: signal() })
  })
  await pausing
  expect(blackoutMs).toBe(0)
  expect(await node.vms.show('a')).toMatchObject({ runState: 'paused' })
  await node.templates.remove(record.id)
})

test('meanwhile it can be stopped by force: then there is no template', async () => {
  let stopping: Promise<void> | null = null
  const sealing = sealWhile(() => {
    stopping = node.vms.stopVm('a', { force: true, signal: signal() })
  })
  await expect(sealing).rejects.toMatchObject({ code: 'VM_STOPPED' })
  await stopping
  await expectOnlyBase()
})

test('one that is cancelled leaves nothing, and the VM as it was', async () => {
  const cancel = new AbortController()
  const sealing = sealWhile(() => cancel.abort(new Error('cancelled')), { signal: cancel.signal })
  await expect(sealing).rejects.toThrow('cancelled')
  await expectOnlyBase()
  await expectRunning()
  await node.templates.remove((await sealWhile(() => {})).record.id)
})

test('an agent that stops meanwhile leaves nothing of it, and lets the VM run on', async () => {
  let stopping: Promise<void> | null = null
  const sealing = sealWhile(() => {
    stopping = node.stop()
  })
  await expect(sealing).rejects.toMatchObject({ code: 'VM_BUSY' })
  await stopping
  node = await bench.start()
  await expectOnlyBase()
  await expectRunning()
})

test('a guest that stands still for another reason is none to be sealed', async () => {
  // Behind the back of its record: as a guest whose disk fails does.
  const departing = await node.vms.depart('a', 'a-move')
  await departing.stay()
  await departing.process.pause()
  await expect(sealWhile(() => {})).rejects.toMatchObject({
    code: 'TEMPLATE_NOT_DERIVABLE',
    details: { reasons: ['the guest is paused'] },
  })
  await expectOnlyBase()
})
