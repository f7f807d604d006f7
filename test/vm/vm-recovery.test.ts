import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { VmRecord, VmState } from '../../src/domain/vm.ts'
import { QmpClient } from '../../src/qemu/index.ts'
import { doubtAbout } from '../support/doubt.ts'
import { Bench, type TestNode } from './vm-fixture.ts'

const TEST_TIMEOUT_MS = 90_000
const MIGRATION_ID = '7f8d6c1e-25a4-4a39-9d7e-0b6d5a3c1f20'
const DESTINATION = '12D3KooWDestination'

let bench: Bench
let node: TestNode

beforeAll(async () => {
  bench = await Bench.create()
})
afterAll(() => bench[Symbol.asyncDispose]())
beforeEach(async () => {
  node = await bench.start()
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

async function run(name = 'a'): Promise<VmRecord & { state: Extract<VmState, { kind: 'running' }> }> {
  const record = await node.vms.run({ name, templateRef: 'base', nics: [] }, { signal: signal() })
  return record as VmRecord & { state: Extract<VmState, { kind: 'running' }> }
}

/** The agent ends and another one starts; `meanwhile` happens with the database open and no agent. */
async function restart(meanwhile: () => Promise<void> = async () => {}): Promise<void> {
  await node.vms.stop()
  await meanwhile()
  await node.stop()
  node = await bench.start()
}

test('VMs run on while the agent is gone, and are found again as they were', async () => {
  await run('a')
  await run('b')
  await node.vms.pause('b', { signal: signal() })
  const before = node.vms.list()
  {
    await using console = await node.console('a')
    await console.run('echo here > /tmp/mark')
  }
  await restart()
  expect(node.vms.list()).toEqual(before)
  expect(node.kinds()).toEqual(['vm-adopted', 'vm-adopted'])
  expect((await node.vms.show('a')).runState).toBe('running')
  expect((await node.vms.show('b')).runState).toBe('paused')
  await using console = await node.console('a')
  expect(await console.run('cat /tmp/mark')).toBe('here')
  await node.vms.resume('b', { signal: signal() })
  // An adopted QEMU is nobody's child, and its end is noticed nevertheless.
  await console.run('(sleep 0.2; poweroff -f) > /dev/null 2>&1 &')
  await expect
    .poll(() => node.vms.get('a').state, { timeout: 30_000 })
    .toMatchObject({ reason: 'guest powered off' })
})

test('a record whose QEMU is gone becomes stopped, with a reason', async () => {
  const { state } = await run()
  await restart(async () => {
    process.kill(state.process.pid, 'SIGKILL')
    await expect.poll(() => bench.pids(), { timeout: 10_000 }).toEqual([])
  })
  expect(node.vms.get('a').state).toMatchObject({
    kind: 'stopped',
    reason: expect.stringContaining('no agent watched'),
  })
  expect(node.vms.memory().committedBytes).toBe(0)
})

test('a pid that another process has now is not taken for the QEMU', async () => {
  const record = await run()
  await restart(async () => {
    const stranger = { ...record.state.process, startTimeTicks: record.state.process.startTimeTicks - 1 }
    await node.plant({ ...record, state: { ...record.state, process: stranger } })
  })
  expect(node.vms.get('a').state.kind).toBe('stopped')
  // And the QEMU that no record names any more is not left behind.
  expect(await bench.pids()).toEqual([])
})

test('a crash between commit and resume is mended: the guest goes on', async () => {
  const record = await run()
  await node.vms.pause('a', { signal: signal() })
  await restart(() => node.plant(record))
  expect((await node.vms.show('a')).runState).toBe('running')
})

test('a crash between the record and the pause is mended: the guest pauses', async () => {
  const record = await run()
  await restart(() => node.plant({ ...record, state: { ...record.state, paused: true } }))
  expect((await node.vms.show('a')).runState).toBe('paused')
})

test.each([
  [false, 'running'],
  [true, 'paused'],
] as const)(
  'a move that the crash interrupted is off: paused by its user %s, then %s',
  async (paused, runState) => {
    const record = await run()
    await node.vms.pause('a', { signal: signal() })
    await restart(() =>
      node.plant({
        ...record,
        state: { ...record.state, kind: 'departing', paused, migrationId: MIGRATION_ID },
      }),
    )
    expect(node.vms.get('a').state).toEqual({ kind: 'running', process: record.state.process, paused })
    expect((await node.vms.show('a')).runState).toBe(runState)
    expect(node.vms.inDoubt()).toEqual([])
  },
)

test.each(['stay', 'leave'] as const)(
  'a VM in doubt stays paused over a restart, until it may %s',
  async (end) => {
    const record = await run()
    const departing = await node.vms.depart('a', MIGRATION_ID)
    await departing.process.pause()
    await departing.doubt(doubtAbout(DESTINATION))
    await restart()
    const state = { kind: 'in-doubt', migrationId: MIGRATION_ID, destination: DESTINATION, paused: false }
    expect(node.vms.get('a').state).toMatchObject(state)
    expect((await node.vms.show('a')).runState).toBe('paused')
    for (const command of [
      node.vms.resume('a', { signal: signal() }),
      node.vms.stopVm('a', { force: true, signal: signal() }),
      node.vms.remove('a'),
      node.vms.depart('a', MIGRATION_ID),
    ]) {
      await expect(command).rejects.toMatchObject({ code: 'VM_IN_DOUBT', outcome: 'in-doubt' })
    }
    expect((await node.vms.show('a')).runState).toBe('paused')

    const [doubtful] = node.vms.inDoubt()
    expect(doubtful!.record.spec).toEqual(record.spec)
    await doubtful![end]()
    if (end === 'stay') {
      expect(node.vms.get('a').state).toEqual(record.state)
      expect((await node.vms.show('a')).runState).toBe('running')
    } else {
      expect(node.vms.list()).toEqual([])
      expect(await bench.pids()).toEqual([])
      expect(await node.runDirs()).toEqual([])
    }
  },
)

test.each([
  ['while the agent watches', 'stay'],
  ['while the agent watches', 'leave'],
  ['while no agent watches', 'stay'],
  ['while no agent watches', 'leave'],
] as const)('a VM in doubt whose QEMU dies %s keeps its doubt, until it may %s', async (when, end) => {
  const { spec, state } = await run()
  const departing = await node.vms.depart('a', MIGRATION_ID)
  await departing.process.pause()
  await departing.doubt(doubtAbout(DESTINATION))
  const kill = async () => {
    process.kill(state.process.pid, 'SIGKILL')
    await expect.poll(() => bench.pids(), { timeout: 10_000 }).toEqual([])
  }
  if (when === 'while the agent watches') {
    await kill()
    await expect.poll(() => node.vms.get('a').state.kind, { timeout: 10_000 }).toBe('stopped')
    await restart()
  } else {
    await restart(kill)
    expect(node.events).toMatchObject([{ kind: 'vm-stopped', reason: expect.stringContaining(DESTINATION) }])
  }
  const doubt = { migrationId: MIGRATION_ID, destination: DESTINATION }
  expect(node.vms.get('a').state).toMatchObject({ kind: 'stopped', doubt })
  for (const command of [
    node.vms.resume('a', { signal: signal() }),
    node.vms.remove('a'),
    node.vms.depart('a', MIGRATION_ID),
  ]) {
    await expect(command).rejects.toMatchObject({ code: 'VM_IN_DOUBT', outcome: 'in-doubt' })
  }
  await node.vms.stopVm('a', { force: true, signal: signal() })
  await node.vms.stopVm('a', { force: false, signal: signal() })

  const [doubtful, ...others] = node.vms.inDoubt()
  expect(others).toEqual([])
  expect(doubtful!.record.spec).toEqual(spec)
  expect(doubtful!.paused).toBe(false)
  await doubtful![end]()
  expect(node.vms.inDoubt()).toEqual([])
  // As it is on disk.
  await restart()
  if (end === 'stay') {
    expect(node.vms.get('a').state).toMatchObject({ kind: 'stopped', doubt: null })
    await node.vms.remove('a')
  }
  expect(node.vms.list()).toEqual([])
  expect(await node.runDirs()).toEqual([])
})

test('records of earlier versions, without doubt, run directory and clients, are read', async () => {
  const { spec, state, coolDown } = await run('a')
  await run('b')
  await node.vms.stopVm('b', { force: true, signal: signal() })
  await restart(async () => {
    for (const { runDirName: _, coolDown: _never, ...earlier } of node.vms.list()) {
      const { clients: _clients, auto: _auto, ...spec } = earlier.spec
      const { kind } = earlier.state
      const state = kind === 'stopped' ? { kind, reason: 'guest powered off' } : earlier.state
      await node.plant({ ...earlier, spec, state } as VmRecord)
    }
  })
  expect(node.vms.get('a')).toMatchObject({ spec, runDirName: spec.id, state, coolDown })
  expect(node.vms.get('b').state).toEqual({ kind: 'stopped', reason: 'guest powered off', doubt: null })
  expect(node.vms.inDoubt()).toEqual([])
})

test('a QEMU without a record is ended, and what it left is removed', async () => {
  const { spec } = await run()
  await restart(async () => {
    await node.db.sublevel('vms').del(spec.id)
    expect(await bench.pids()).toHaveLength(1)
  })
  expect(await bench.pids()).toEqual([])
  expect(await node.runDirs()).toEqual([])
  expect(node.vms.list()).toEqual([])
})

test('directories of half-made VMs are removed, others are left alone', async () => {
  const dirs = join(bench.dataDir, 'vms')
  const made = await node.vms.run({ name: 'a', templateRef: 'base', nics: [] }, { signal: signal() })
  for (const name of ['half-made', 'of-somebody', made.spec.id]) await mkdir(join(dirs, name))
  for (const name of ['half-made', made.spec.id]) await writeFile(join(dirs, name, 'uncommitted'), '')
  await restart()
  expect((await readdir(dirs)).toSorted()).toEqual([made.spec.id, 'of-somebody'].toSorted())
  expect(await readdir(join(dirs, made.spec.id))).toEqual([])
  await rm(join(dirs, 'of-somebody'), { recursive: true })
})

test('a QEMU that does not answer keeps nothing from starting, and can be ended by force', async () => {
  const { state } = await run('a')
  await run('b')
  let other: QmpClient | null = null
  // QEMU serves one control client at a time: with another one connected, it looks as if it hung.
  await restart(async () => {
    other = await QmpClient.connect(join(bench.runDir, node.vms.get('a').spec.id, 'qmp.sock'))
  })
  expect(node.kinds().toSorted()).toEqual(['vm-adopted', 'vm-unreachable'])
  expect(node.vms.get('a').state).toEqual(state)
  expect(await node.vms.show('a')).toMatchObject({ pid: state.process.pid, consoleSocket: null, pages: null })
  await expect(node.vms.pause('a', { signal: signal() })).rejects.toMatchObject({ code: 'VM_UNREACHABLE' })
  await node.vms.stopVm('a', { force: true, signal: signal() })
  expect(await bench.pids()).toHaveLength(1)
  expect(node.vms.get('a').state.kind).toBe('stopped')
  await (other as QmpClient | null)?.close()
})
