/** Running short of memory: when a node is, which VM goes, and what a watch over made-up VMs makes of it. */
import { expect, onTestFinished, test } from 'vitest'
import { EventHub } from '../../src/agent/event-hub.ts'
import { MemoryWatch } from '../../src/agent/pressure/memory-watch.ts'
import {
  CALM,
  chooseToMove,
  lowMarkBytes,
  type MemorySample,
  nextPressure,
  type Pressure,
} from '../../src/agent/pressure/pressure.ts'
import { parseStallPercent, sampleMemory } from '../../src/agent/pressure/sample.ts'
import type { NotRelocated, Relocated, Relocations } from '../../src/agent/relocation/relocate.ts'
import type { VmService } from '../../src/vm/index.ts'

const MIB = 1024 ** 2
const GIB = 1024 * MIB

const EASY: MemorySample = {
  totalBytes: 8 * GIB,
  availableBytes: 4 * GIB,
  limitBytes: null,
  committedBytes: 3 * GIB,
  stallPercent: 0,
}
const LOW: MemorySample = { ...EASY, availableBytes: 300 * MIB }

function after(samples: readonly MemorySample[], from: Pressure = CALM): Pressure {
  return samples.reduce(nextPressure, from)
}

test('the low mark is a share of the machine, within bounds', () => {
  expect([1, 8, 64].map((gib) => lowMarkBytes(gib * GIB) / MIB)).toEqual([128, 409.6, 1024])
})

test.each<[string, Partial<MemorySample>, string]>([
  ['little available', { availableBytes: 409 * MIB }, 'memory-low'],
  ['guests beyond the limit', { limitBytes: 3 * GIB - 1 }, 'over-limit'],
  ['a machine that waits for memory', { stallPercent: 20 }, 'stalls'],
])('%s is pressure after three samples in a row, not after one', (_what, sample, cause) => {
  const pressed = { ...EASY, ...sample }
  expect(after([pressed, pressed])).toEqual({ kind: 'calm', lowSamples: 2 })
  expect(after([pressed, pressed, EASY, pressed])).toEqual({ kind: 'calm', lowSamples: 1 })
  expect(after([pressed, pressed, pressed])).toEqual({ kind: 'pressed', cause, clearSamples: 0 })
})

test.each<[string, Partial<MemorySample>]>([
  ['just above the low mark', { availableBytes: 410 * MIB }],
  ['just within the limit', { limitBytes: 3 * GIB }],
  ['with some stalls', { stallPercent: 19.9 }],
  ['where the kernel tells nothing of stalls', { stallPercent: null }],
])('%s there is none', (_what, sample) => {
  expect(after(Array(9).fill({ ...EASY, ...sample }))).toEqual(CALM)
})

test.each<[string, Partial<MemorySample>]>([
  ['twice the low mark', { availableBytes: 700 * MIB }],
  ['a twentieth below the limit', { limitBytes: 3.1 * GIB }],
  ['few stalls', { stallPercent: 6 }],
])('it ends with %s in three samples, not before', (_what, sample) => {
  const pressed = after([LOW, LOW, LOW])
  const almost = { ...EASY, ...sample }
  expect(after(Array(9).fill(almost), pressed)).toMatchObject({ kind: 'pressed', clearSamples: 0 })
  expect(after([EASY, EASY, almost, EASY, EASY], pressed)).toMatchObject({ kind: 'pressed', clearSamples: 2 })
  expect(after([EASY, EASY, EASY], pressed)).toEqual(CALM)
})

test('the VM goes that frees most for each byte sent; of equal ones the largest', () => {
  const small = { id: 'small', ownBytes: 50, sendBytes: 50 }
  const large = { id: 'large', ownBytes: 400, sendBytes: 400 }
  const withTemplate = { id: 'with its template', ownBytes: 900, sendBytes: 1500 }
  expect(chooseToMove([small, withTemplate, large])).toBe(large)
  expect(chooseToMove([small, withTemplate])).toBe(small)
  expect(chooseToMove([withTemplate])).toBe(withTemplate)
  expect(chooseToMove([])).toBeNull()
})

test('stalls are read as the kernel writes them, and memory is that of this machine', () => {
  const text =
    'some avg10=1.53 avg60=0.87 avg300=0.73 total=1\nfull avg10=12.50 avg60=0.00 avg300=0.00 total=2\n'
  expect(parseStallPercent(text)).toBe(12.5)
  expect(parseStallPercent('full of nonsense')).toBeNull()
  const memory = () => ({ limitBytes: 5, committedBytes: 3, reservedBytes: 0, availableBytes: 2 })
  const sample = sampleMemory({ memory })
  expect(sample).toMatchObject({ limitBytes: 5, committedBytes: 3 })
  expect(sample.availableBytes).toBeGreaterThan(0)
  expect(sample.totalBytes).toBeGreaterThan(sample.availableBytes)
})

interface TestVm {
  ownBytes: number
  auto: boolean
  /** Null: no node has room. */
  sendBytes: number | null
}

/** Looks every 5 ms; moves end when the test says so. */
function setUp(vms: Record<string, TestVm>) {
  const here = new Map(Object.entries(vms))
  const moves: { vm: string; end: (outcome: Relocated | NotRelocated) => void }[] = []
  const now = { sample: LOW, isPaused: false, lookAtMemory: async () => {}, giveUpPrepared: () => false }
  const record = (name: string) => {
    const { auto } = here.get(name)!
    return { spec: { id: name, name, auto }, state: { kind: 'running', paused: false } }
  }
  const node = {
    list: () => [...here.keys()].map(record),
    get: record,
    ownMemoryBytes: (name: string) => here.get(name)!.ownBytes,
    giveUpPrepared: () => now.giveUpPrepared(),
  }
  const relocations = {
    destinations: (name: string) => {
      const { sendBytes } = here.get(name)!
      return [{ peerId: 'there', sendBytes: sendBytes ?? 1, hasRoom: sendBytes !== null }]
    },
    relocate: (vm: string, { signal }: { signal: AbortSignal }) => {
      const { promise, resolve } = Promise.withResolvers<Relocated | NotRelocated>()
      const end = (outcome: Relocated | NotRelocated) => {
        if (outcome.kind === 'moved') here.delete(vm)
        resolve(outcome)
      }
      signal.addEventListener('abort', () => resolve({ kind: 'not-moved', vm, error: signal.reason }))
      moves.push({ vm, end })
      return promise
    },
  }
  const events = new EventHub()
  const seen: { kind: string; [field: string]: unknown }[] = []
  const ended = new AbortController()
  const reading = (async () => {
    for await (const event of events.read({ recent: true, signal: ended.signal })) seen.push(event)
  })()
  const watch = new MemoryWatch(
    {
      vms: node as unknown as VmService,
      relocations: relocations as unknown as Relocations,
      events,
      lookAtMemory: () => now.lookAtMemory(),
      sample: () => now.sample,
      isPaused: () => now.isPaused,
      random: () => 0,
    },
    { sampleMs: 5 },
  )
  watch.start()
  onTestFinished(async () => {
    ended.abort()
    await Promise.all([watch.stop(), reading])
  })
  return { here, moves, now, seen, watch, kinds: () => seen.map(({ kind }) => kind) }
}

const moved = (vm: string): Relocated => ({
  kind: 'moved',
  vm,
  to: 'there',
  node: 'edge-2',
  report: {} as never,
})
const settle = () => new Promise((resolve) => setTimeout(resolve, 60))

test('VMs with auto are moved one at a time until there is ease; of the others is told', async () => {
  const { moves, now, seen, kinds } = setUp({
    mine: { ownBytes: 900, auto: false, sendBytes: 900 },
    small: { ownBytes: 100, auto: true, sendBytes: 100 },
    large: { ownBytes: 500, auto: true, sendBytes: 500 },
    far: { ownBytes: 800, auto: true, sendBytes: 8000 },
  })
  await expect.poll(() => moves.map(({ vm }) => vm)).toEqual(['large'])
  expect(seen[0]).toMatchObject({ kind: 'memory-pressure', cause: 'memory-low', availableBytes: 300 * MIB })
  expect(seen[0]!.vms).toEqual([
    { name: 'mine', ownBytes: 900, auto: false },
    { name: 'far', ownBytes: 800, auto: true },
    { name: 'large', ownBytes: 500, auto: true },
    { name: 'small', ownBytes: 100, auto: true },
  ])
  await settle()
  expect(moves).toHaveLength(1)
  moves[0]!.end(moved('large'))
  await expect.poll(() => moves.map(({ vm }) => vm)).toEqual(['large', 'small'])
  now.sample = EASY
  moves[1]!.end(moved('small'))
  await expect.poll(kinds).toContain('memory-relieved')
  await settle()
  expect(moves).toHaveLength(2)
  expect(kinds()).toEqual([
    'memory-pressure',
    'memory-pressure-moves',
    'memory-pressure-moved',
    'memory-pressure-moves',
    'memory-pressure-moved',
    'memory-relieved',
  ])
})

test('QEMUs that no VM is in are given up before a VM has to go', async () => {
  const { moves, now, kinds } = setUp({ web: { ownBytes: 500, auto: true, sendBytes: 500 } })
  now.giveUpPrepared = () => {
    now.sample = EASY
    return true
  }
  await expect.poll(kinds).toEqual(['memory-pressure', 'memory-relieved'])
  expect(moves).toEqual([])
})

test('which one goes is decided by what guests have now, not by what they had before one of them grew', async () => {
  const { here, moves, now } = setUp({
    grown: { ownBytes: 900, auto: true, sendBytes: 10 },
    calm: { ownBytes: 300, auto: true, sendBytes: 300 },
  })
  now.lookAtMemory = async () => void here.set('grown', { ownBytes: 900, auto: true, sendBytes: 1500 })
  await expect.poll(() => moves.map(({ vm }) => vm)).toEqual(['calm'])
})

test('after a move that failed that VM waits, and another one goes', async () => {
  const { moves, kinds } = setUp({
    first: { ownBytes: 500, auto: true, sendBytes: 500 },
    second: { ownBytes: 100, auto: true, sendBytes: 100 },
  })
  await expect.poll(() => moves.length).toBe(1)
  moves[0]!.end({ kind: 'not-moved', vm: 'first', error: new Error('no') })
  await expect.poll(() => moves.map(({ vm }) => vm)).toEqual(['first', 'second'])
  moves[1]!.end({ kind: 'not-moved', vm: 'second', error: new Error('no') })
  await expect.poll(kinds).toContain('memory-pressure-not-relieved')
  await settle()
  expect(moves).toHaveLength(2)
  expect(kinds().filter((kind) => kind === 'memory-pressure-not-relieved')).toHaveLength(1)
})

test('without a node that has room, and while it is paused, nothing is moved', async () => {
  const { moves, now, kinds } = setUp({ web: { ownBytes: 500, auto: true, sendBytes: null } })
  await expect.poll(kinds).toContain('memory-pressure-not-relieved')
  expect(moves).toEqual([])
  now.isPaused = true

  const paused = setUp({ web: { ownBytes: 500, auto: true, sendBytes: 500 } })
  paused.now.isPaused = true
  await expect.poll(paused.kinds).toContain('memory-pressure')
  await settle()
  expect(paused.moves).toEqual([])
  paused.now.isPaused = false
  await expect.poll(() => paused.moves.length).toBe(1)
  // A stop cancels it and waits.
  await paused.watch.stop()
  await expect.poll(paused.kinds).toContain('memory-pressure-move-failed')
})
