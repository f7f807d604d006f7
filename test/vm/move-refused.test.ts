/** Moves that must not happen, and moves with limits: what is said, and that the VM goes on where it is. */
import { open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import type { AgentUnderTest } from '../support/drover.ts'
import { qemuPids } from '../support/node-state.ts'
import {
  expectCounting,
  inGuest,
  move,
  removeVm,
  runVm,
  showVm,
  TwoNodes,
  vmNames,
} from '../support/two-nodes.ts'

const BALLAST_BYTES = 12 * 1024 ** 2

let nodes: TwoNodes
let counter = 0
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '128M' })
  await runVm(nodes.source, 'stays')
  await inGuest(nodes.source, 'stays', 'workload counter start')
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

interface Refusal {
  error: { code: string; message: string; details: Record<string, unknown> }
}

/** A move that must fail: its document, once the exit code and the error's code are right. */
async function failing(
  args: readonly string[],
  expected: { code: number; error: string },
): Promise<Refusal & Partial<MigrationReport>> {
  const { code, stdout, stderr } = await nodes.source.run(['migrate', ...args, '--json'])
  const document = JSON.parse(stdout) as Refusal
  expect({ code, error: document.error.code }, stderr).toEqual(expected)
  expect(document.error.message).not.toBe('')
  return document
}

afterEach(async () => {
  counter = await expectCounting(nodes.source, 'stays', counter)
  expect(await qemuPids(nodes.destination)).toEqual([])
})

test.each([
  { what: 'an unknown VM', args: ['nope', '--to', 'edge-2'], error: 'VM_NOT_FOUND' },
  { what: 'an unknown peer', args: ['stays', '--to', 'edge-9'], error: 'PEER_NOT_FOUND' },
  { what: 'the node that it is on', args: ['stays', '--to', 'edge-1'], error: 'ALREADY_HERE' },
])('$what is refused', async ({ args, error }) => {
  await failing(args, { code: 3, error })
})

test('a node that lets nobody send takes no VM', async () => {
  const config = join(nodes.source.dir, 'closed.json')
  await writeFile(config, JSON.stringify({ allow: { send: [], fetch: [], command: [] } }))
  const closed = await nodes.join('edge-closed', ['--config', config])
  const { peerId } = await nodes.source.json<{ peerId: string }>('status')
  const { error } = await failing(['stays', '--to', 'edge-closed'], { code: 3, error: 'NOT_PERMITTED' })
  expect(error.details).toEqual({ action: 'send', peer: peerId })
  expect(error.message).toMatch(/edge-closed.*`allow\.send`/)
  expect(await vmNames(closed)).toEqual([])
  expect(await closed.json('status')).toMatchObject({ policy: { send: [], fetch: [], command: [] } })
})

test('no destination, a bandwidth that is none: usage', async () => {
  await failing(['stays'], { code: 2, error: 'USAGE' })
  await failing(['stays', '--to', 'edge-2', '--max-bandwidth', 'fast'], { code: 2, error: 'USAGE' })
  await failing(['stays', '--to', 'edge-2', '--max-blackout', '0'], { code: 2, error: 'USAGE' })
})

test('an unknown template is refused', async () => {
  const { code, stdout } = await nodes.source.run(['vm', 'run', 'x', '--template', 'nope', '--json'])
  expect({ code, document: JSON.parse(stdout) }).toMatchObject({
    code: 3,
    document: { error: { code: 'TEMPLATE_NOT_FOUND' } },
  })
})

test('a stopped VM is refused', async () => {
  await runVm(nodes.source, 'off')
  await nodes.source.json('vm', 'stop', 'off', '--force')
  await failing(['off', '--to', 'edge-2'], { code: 3, error: 'VM_STOPPED' })
  await nodes.source.json('vm', 'rm', 'off')
})

test('a destination without the memory says how much is missing', async () => {
  const small = await nodes.join('edge-3', ['--memory-limit', '64M'])
  const { error } = await failing(['stays', '--to', 'edge-3'], { code: 3, error: 'NOT_ENOUGH_MEMORY' })
  const { neededBytes, availableBytes, missingBytes, limitBytes } = error.details as Record<string, number>
  expect(limitBytes).toBe(64 * 1024 ** 2)
  expect(neededBytes).toBeGreaterThan(availableBytes!)
  expect(missingBytes).toBe(neededBytes! - availableBytes!)
  expect(await vmNames(small)).toEqual([])
  expect(await qemuPids(small)).toEqual([])
})

test('a name that is taken at the destination', async () => {
  const { source, destination, templateId } = nodes
  await destination.json('vm', 'run', 'stays', '--template', templateId)
  const theirs = await showVm(destination, 'stays')
  await failing(['stays', '--to', 'edge-2'], { code: 3, error: 'NAME_TAKEN' })
  expect(await showVm(destination, 'stays')).toMatchObject({
    id: theirs.id,
    pid: theirs.pid,
    state: 'running',
  })
  expect((await showVm(source, 'stays')).id).not.toBe(theirs.id)
  await removeVm(destination, 'stays')
})

test('a blackout limit that can not be kept', async () => {
  const { error } = await failing(['stays', '--to', 'edge-2', '--max-blackout', '1'], {
    code: 1,
    error: 'BLACKOUT_TOO_LONG',
  })
  expect(error.details).toMatchObject({ maxBlackoutMs: 1, predictedBlackoutMs: expect.any(Number) })
})

test('a bandwidth limit is kept', async () => {
  const { source, destination } = nodes
  await runVm(source, 'slow')
  await inGuest(source, 'slow', `head -c ${BALLAST_BYTES} /dev/urandom > /run/ballast`)
  const { bytes, durationsMs } = await move(source, 'slow', destination, '--max-bandwidth', '40Mbit')
  const bytesPerSecond = (bytes.wire * 1000) / durationsMs.total
  console.log(JSON.stringify({ bytesPerSecond, bytes, durationsMs }))
  expect(bytes.wire).toBeGreaterThan(BALLAST_BYTES)
  // The last batch of a round, up to 1 MiB, is sent without waiting after it.
  expect(bytes.wire - 1024 ** 2).toBeLessThan((durationsMs.total / 1000) * 5e6)
  expect(bytesPerSecond).toBeGreaterThan(2.5e6)
  await removeVm(destination, 'slow')
})

/** Flips one bit of a file, and back when the scope ends. */
async function flipped(path: string, byte: number): Promise<AsyncDisposable> {
  const flip = async (): Promise<void> => {
    await using file = await open(path, 'r+')
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, byte)
    await file.write(Buffer.from([buffer[0]! ^ 0x10]), 0, 1, byte)
    await file.sync()
  }
  await flip()
  return { [Symbol.asyncDispose]: flip }
}

function templateFile(agent: AgentUnderTest, file: string): string {
  return join(agent.dataDir, 'templates', nodes.templateId, file)
}

test('one flipped bit in the RAM file: verify names the page', async () => {
  const { destination, templateId } = nodes
  const page = 4711
  {
    await using _flipped = await flipped(templateFile(destination, 'ram'), page * PAGE_BYTES + 99)
    const { code, stdout } = await destination.run([
      'template',
      'verify',
      templateId,
      '--no-repair',
      '--json',
    ])
    expect({ code, document: JSON.parse(stdout) }).toMatchObject({
      code: 1,
      document: { ok: false, templates: [{ id: templateId, damaged: [{ file: 'ram', pages: [page] }] }] },
    })
  }
  expect(await destination.json('template', 'verify')).toMatchObject({ ok: true })
})

test.each([
  { where: 'in a ROM block, which no digest of the guest covers', at: 0.4 },
  { where: 'in the device state', at: 0.95 },
])('one flipped bit in the state file, $where: no move', async ({ at }) => {
  const { destination, templateId } = nodes
  const path = templateFile(destination, 'state')
  const { stateBytes } = await destination.json<{ stateBytes: number }>('template', 'show', templateId)
  {
    await using _flipped = await flipped(path, Math.floor(stateBytes * at))
    const verified = await destination.run(['template', 'verify', templateId, '--no-repair', '--json'])
    expect(JSON.parse(verified.stdout).templates).toMatchObject([{ damaged: [{ file: 'state' }] }])
    const { error } = await failing(['stays', '--to', 'edge-2'], { code: 1, error: 'PEER_ABORTED' })
    expect(error.details).toMatchObject({ peerCode: 'TEMPLATE_DAMAGED' })
  }
  await runVm(nodes.source, 'after')
  await move(nodes.source, 'after', destination)
  await removeVm(destination, 'after')
})
