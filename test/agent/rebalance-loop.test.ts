/** The rebalancer's loop, over nodes and moves that a test makes up: what it starts, and what it leaves. */
import type { Level } from 'level'
import { expect, onTestFinished, test, vi } from 'vitest'
import { EventHub } from '../../src/agent/event-hub.ts'
import { NodeSwitches } from '../../src/agent/node-switches.ts'
import { RebalanceLedger } from '../../src/agent/rebalance/rebalance-ledger.ts'
import { RebalanceLoop, type RebalanceLoopComponents } from '../../src/agent/rebalance/rebalance-loop.ts'
import { RebalanceMemory } from '../../src/agent/rebalance/rebalance-memory.ts'
import { steadyNowMs } from '../../src/domain/clock.ts'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { backOffRemainingMs, DEFAULT_CALM } from '../../src/placement/index.ts'
import { candidateNode, HERE, NOW_MS, steadySamples, vmSituation } from '../placement/situations.ts'
import { temporaryDatabase } from '../support/database.ts'

const THERE = 'there'
/** Long enough for a slow machine's timers. */
const LOOK_TIMEOUT_MS = 10_000

interface Move {
  vm: string
  to: string
  automatic: boolean | undefined
  signal: AbortSignal
  end: (outcome: MigrationReport['outcome'], code?: string) => void
}

/** A node with one VM whose clients are nearer to another node. */
async function setUp({ auto = true, ...given }: { auto?: boolean; db?: Level<string, unknown> } = {}) {
  const db = given.db ?? (await temporaryDatabase())
  const switches = await NodeSwitches.load(db)
  const ledger = new RebalanceLedger({ switches, events: new EventHub() })
  const moves: Move[] = []
  const node = { isDraining: false, leaving: 0 }
  const sinceMs = Date.now() - NOW_MS
  const samples = steadySamples({ [HERE]: 120, [THERE]: 10 }).map((sample) => {
    return { ...sample, atMs: sample.atMs + sinceMs }
  })
  const situation = vmSituation({ mode: auto ? 'auto' : 'pinned', samples })
  const components: unknown = {
    vms: { list: () => [{ spec: { id: situation.id } }] },
    migrations: {
      get leaving() {
        return node.leaving
      },
    },
    surroundings: {
      lookAtMemory: async () => {},
      vm: () => situation,
      machine: () => ({ templateId: situation.templateId }),
      candidates: () => [candidateNode(THERE)],
    },
    relocations: {
      move: (
        id: string,
        { peerId }: { peerId: string },
        { automatic, signal }: { automatic?: boolean; signal: AbortSignal },
      ) => {
        const { promise, resolve } = Promise.withResolvers<Partial<MigrationReport>>()
        const end: Move['end'] = (outcome, code = ERROR.code) =>
          resolve({ outcome, error: outcome === 'completed' ? null : { ...ERROR, code } })
        moves.push({ vm: id, to: peerId, automatic, signal, end })
        signal.addEventListener('abort', () => end('cancelled'))
        return promise
      },
    },
    ledger,
    memory: await RebalanceMemory.load(db),
    isDraining: () => node.isDraining,
    load: () => 0,
  }
  const loop = new RebalanceLoop(components as RebalanceLoopComponents, {
    peerId: HERE,
    lookIntervalMs: 20,
    random: () => 0,
  })
  onTestFinished(() => loop.stop())
  loop.start()
  const looks = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const before = ledger.status().lookedAtMs
      await expect.poll(() => ledger.status().lookedAtMs, { timeout: LOOK_TIMEOUT_MS }).not.toBe(before)
    }
  }
  return { db, ledger, moves, node, loop, looks }
}

const ERROR = { code: 'NOT_ENOUGH_MEMORY', message: 'no', details: {} }

test("a VM whose clients are nearer elsewhere is moved there, once, as nobody's wish", async () => {
  const { moves, ledger, looks } = await setUp()
  await expect.poll(() => moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
  expect(moves[0]).toMatchObject({ to: THERE, automatic: true })
  await looks(1)
  expect(moves).toHaveLength(1)
  expect(ledger.status().moves).toEqual({ decided: 1, made: 0, failed: 0 })
  expect(ledger.status().verdicts.move).toBeGreaterThan(0)
  moves[0]!.end('completed')
  await expect.poll(() => ledger.status().moves.made).toBe(1)
})

test('a move that fails is not tried again at once', async () => {
  const { moves, ledger, looks } = await setUp()
  await expect.poll(() => moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
  moves[0]!.end('refused')
  await expect.poll(() => ledger.status().moves.failed).toBe(1)
  await looks(2)
  expect(moves).toHaveLength(1)
  expect(ledger.plan()[0]!.verdict).toMatchObject({ reason: { code: 'vm-backs-off' } })
})

test('a port that is taken there keeps the VM from there, and nothing else', async () => {
  const { moves, ledger, looks } = await setUp()
  await expect.poll(() => moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
  moves[0]!.end('refused', 'PORT_TAKEN')
  await expect.poll(() => ledger.status().moves.failed).toBe(1)
  await looks(2)
  expect(moves).toHaveLength(1)
  expect(ledger.plan()[0]!.verdict).toMatchObject({ reason: { code: 'destination-backs-off' } })
})

test.each<[string, (lab: Awaited<ReturnType<typeof setUp>>) => unknown]>([
  ['paused', ({ ledger }) => ledger.pause()],
  ['drained', ({ node }) => Object.assign(node, { isDraining: true })],
  ['busy with a move that a person began', ({ node }) => Object.assign(node, { leaving: 1 })],
])('a node that is %s looks, and moves nothing', async (_, prepare) => {
  const lab = await setUp()
  await prepare(lab)
  await lab.looks(2)
  expect(lab.moves).toHaveLength(0)
  expect(lab.ledger.plan()).toHaveLength(1)
})

test('a VM without --auto stays, and the plan says so', async () => {
  const { moves, ledger, looks } = await setUp({ auto: false })
  await looks(1)
  expect(moves).toHaveLength(0)
  expect(ledger.plan()[0]!.verdict).toEqual({ kind: 'stay', reason: { code: 'pinned' } })
  expect(ledger.status().verdicts.pinned).toBeGreaterThan(0)
})

test('an agent that stops cancels the move and waits for its end', async () => {
  const { moves, loop, ledger } = await setUp()
  await expect.poll(() => moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
  await loop.stop()
  expect(moves[0]!.signal.aborted).toBe(true)
  expect(ledger.status().moves.failed).toBe(1)
})

test('of a pause and a resume the later one counts, however close they come', async () => {
  const { ledger } = await setUp()
  await Promise.all([ledger.pause(), ledger.resume()])
  expect(ledger.isPaused).toBe(false)
  await Promise.all([ledger.pause(), ledger.resume(), ledger.pause()])
  expect(ledger.isPaused).toBe(true)
})

test('a clock that is set back does not make a node wait longer', async () => {
  const { moves, ledger, looks } = await setUp()
  await expect.poll(() => moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
  moves[0]!.end('refused')
  await expect.poll(() => ledger.status().moves.failed).toBe(1)
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 86_400_000 })
  onTestFinished(() => void vi.useRealTimers())
  await looks(2)
  const { verdict } = ledger.plan()[0]!
  expect(verdict).toMatchObject({ reason: { code: 'vm-backs-off' } })
  const { remainingMs } = (verdict as { reason: { remainingMs: number } }).reason
  expect(remainingMs).toBeLessThanOrEqual(30_000)
})

test('an agent that is started again waits after what failed, and goes on with the hour', async () => {
  const { db, moves, ledger, loop } = await setUp()
  await expect.poll(() => moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
  moves[0]!.end('refused')
  await expect.poll(() => ledger.status().moves.failed).toBe(1)
  await loop.stop()
  const next = await setUp({ db })
  await next.looks(1)
  expect(next.ledger.plan()[0]!.verdict).toMatchObject({ reason: { code: 'vm-backs-off' } })
  await next.loop.stop()
  const memory = await RebalanceMemory.load(db)
  expect(memory.startedAtMs(steadyNowMs())).toHaveLength(1)
  await memory.succeeded(['vm', THERE])
  for (let i = 1; i < DEFAULT_CALM.maxMovesPerHour; i++) await memory.started(steadyNowMs())
  const last = await setUp({ db })
  await last.looks(1)
  expect(last.ledger.plan()[0]!.verdict).toMatchObject({ reason: { code: 'budget-spent' } })
  expect(last.moves).toHaveLength(0)
})

test('an agent that stops in the middle of a move has nothing against it afterwards', async () => {
  const { db, moves, loop } = await setUp()
  await expect.poll(() => moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
  await loop.stop()
  const next = await setUp({ db })
  await expect.poll(() => next.moves.length, { timeout: LOOK_TIMEOUT_MS }).toBe(1)
})

test('of a past by a clock that was ahead nothing makes a node wait longer than it could', async () => {
  const db = await temporaryDatabase()
  const memory = await RebalanceMemory.load(db)
  const aheadMs = steadyNowMs() + 86_400_000
  await memory.started(aheadMs)
  await memory.failed(['vm'], aheadMs, () => 0)
  const recalled = await RebalanceMemory.load(db)
  expect(recalled.startedAtMs(steadyNowMs())).toEqual([])
  expect(backOffRemainingMs(recalled.backOffs, 'vm', steadyNowMs())).toBeLessThanOrEqual(2_700_000)
})
