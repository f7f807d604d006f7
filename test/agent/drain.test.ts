/** A drain, over VMs and moves that a test makes up: its order, how many at a time, who joins and who ends it. */
import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { Drains } from '../../src/agent/drain/drains.ts'
import { EventHub } from '../../src/agent/event-hub.ts'
import { NodeSwitches } from '../../src/agent/node-switches.ts'
import type { NotRelocated, Relocated, Relocations } from '../../src/agent/relocation/relocate.ts'
import type { VmRecord } from '../../src/domain/vm.ts'
import type { VmService } from '../../src/vm/index.ts'
import { temporaryDatabase } from '../support/database.ts'
import { NEVER_MOVED, someVmSpec } from '../support/vm-spec.ts'
import { never } from '../template/fixture.ts'

interface Move {
  vm: string
  end: (outcome: Relocated | NotRelocated) => void
  signal: AbortSignal
}

/** VMs by their own memory; 0: it is stopped. */
async function setUp(vms: Record<string, number>) {
  const db = await temporaryDatabase()
  const here = new Map(
    Object.entries(vms).map(([name, bytes]) => [name, { record: record(name, bytes), bytes }]),
  )
  const moves: Move[] = []
  const node = {
    isTakingIn: false,
    list: () => [...here.values()].map((vm) => vm.record),
    ownMemoryBytes: (name: string) => here.get(name)!.bytes,
  }
  const relocations: Pick<Relocations, 'relocate'> = {
    relocate: (vm, { signal }) => {
      const { promise, resolve } = Promise.withResolvers<Relocated | NotRelocated>()
      const end = (outcome: Relocated | NotRelocated) => {
        if (outcome.kind === 'moved') here.delete(vm)
        resolve(outcome)
      }
      moves.push({ vm, end, signal })
      signal.addEventListener('abort', () => resolve({ kind: 'not-moved', vm, error: signal.reason }))
      return promise
    },
  }
  const announced: boolean[] = []
  const switches = await NodeSwitches.load(db)
  const drains = new Drains(
    {
      switches,
      vms: node as unknown as VmService,
      relocations: relocations as Relocations,
      events: new EventHub(),
      announce: () => announced.push(switches.isOn('draining')),
    },
    { node: 'edge-1' },
  )
  const arrive = (name: string, bytes: number) => here.set(name, { record: record(name, bytes), bytes })
  return { drains, moves, announced, node, arrive }
}

function record(name: string, bytes: number): VmRecord {
  const state =
    bytes === 0
      ? ({ kind: 'stopped', reason: 'its user stopped it', doubt: null } as const)
      : ({ kind: 'running', process: { pid: 1, startTimeTicks: 1 }, paused: false } as const)
  const spec = someVmSpec({ id: name, name, templateId: 'web' })
  return { spec, epoch: 1, state, runDirName: name, createdAtMs: 0, coolDown: NEVER_MOVED }
}

function moved(vm: string): Relocated {
  const report = { migrationId: randomUUID(), durationsMs: { total: 1 } } as unknown as Relocated['report']
  return { kind: 'moved', vm, to: 'there', node: 'edge-2', report }
}

const quiet = { onProgress: () => {}, signal: never() }

test('those with the most memory of their own go first, four at a time', async () => {
  const { drains, moves } = await setUp({ a: 10, b: 60, c: 30, d: 50, off: 0, e: 20, f: 40 })
  const drained = drains.drain(quiet)
  await expect.poll(() => moves.map(({ vm }) => vm)).toEqual(['b', 'd', 'f', 'c'])
  moves[2]!.end({ kind: 'not-moved', vm: 'f', error: new Error('no') })
  await expect.poll(() => moves.at(-1)!.vm).toBe('e')
  for (const { vm, end } of moves) end(moved(vm))
  await expect.poll(() => moves.at(-1)!.vm).toBe('a')
  moves.at(-1)!.end(moved('a'))
  const { moved: gone, notPlaced, stopped } = await drained
  expect(gone.map(({ vm }) => vm).toSorted()).toEqual(['a', 'b', 'c', 'd', 'e'])
  expect(notPlaced).toEqual([{ vm: 'f', code: 'INTERNAL', message: 'no', outcome: 'failed' }])
  expect(stopped).toEqual(['off'])
})

test('what was on its way here when the drain began is moved on', async () => {
  const { drains, moves, node, arrive } = await setUp({ a: 1 })
  node.isTakingIn = true
  const drained = drains.drain(quiet)
  await expect.poll(() => moves.length).toBe(1)
  moves[0]!.end(moved('a'))
  arrive('late', 5)
  node.isTakingIn = false
  await expect.poll(() => moves.at(-1)!.vm).toBe('late')
  moves[1]!.end(moved('late'))
  expect((await drained).moved.map(({ vm }) => vm)).toEqual(['a', 'late'])
})

test('who drains a node that is being drained joins in; it ends when the last of them leaves', async () => {
  const { drains, moves, announced } = await setUp({ a: 1 })
  const [one, two] = [new AbortController(), new AbortController()]
  const first = drains.drain({ ...quiet, signal: one.signal })
  const second = drains.drain({ ...quiet, signal: two.signal })
  await expect.poll(() => moves.length).toBe(1)
  one.abort(new Error('left'))
  await expect(first).rejects.toThrow('left')
  expect(moves[0]!.signal.aborted).toBe(false)
  two.abort(new Error('left, too'))
  await expect(second).rejects.toThrow('left, too')
  expect(moves[0]!.signal.reason).toMatchObject({ code: 'DRAIN_STOPPED', outcome: 'cancelled' })
  expect(drains.state()).toEqual({ node: 'edge-1', draining: true })
  // Whoever comes then begins a new one.
  const third = drains.drain(quiet)
  await expect.poll(() => moves.length).toBe(2)
  moves[1]!.end(moved('a'))
  expect((await third).moved).toHaveLength(1)
  expect(announced).toEqual([true])
})

test('a node that is ready again ends its drain first', async () => {
  const { drains, moves, announced } = await setUp({ a: 2, b: 1 })
  const drained = drains.drain(quiet)
  await expect.poll(() => moves.length).toBe(2)
  await drains.ready()
  const { notPlaced } = await drained
  expect(notPlaced.map(({ vm, code }) => [vm, code])).toEqual([
    ['a', 'DRAIN_STOPPED'],
    ['b', 'DRAIN_STOPPED'],
  ])
  expect(drains.isDraining).toBe(false)
  expect(announced).toEqual([true, false])
})

test('of a drain and a ready the later one counts, however close they come', async () => {
  const { drains, moves, announced } = await setUp({ a: 1 })
  const drained = drains.drain(quiet)
  await drains.ready()
  expect(drains.isDraining).toBe(false)
  expect((await drained).notPlaced).toMatchObject([{ vm: 'a', code: 'DRAIN_STOPPED' }])
  expect(announced).toEqual([true, false])
  const again = drains.drain(quiet)
  await expect.poll(() => moves.length).toBe(2)
  const [, last] = [drains.ready(), drains.drain(quiet)]
  await again
  await expect.poll(() => moves.length).toBe(3)
  expect(drains.isDraining).toBe(true)
  moves[2]!.end(moved('a'))
  expect((await last).moved).toHaveLength(1)
})
