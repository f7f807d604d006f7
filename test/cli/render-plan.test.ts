import { expect, test } from 'vitest'
import { renderPlan } from '../../src/cli/render-plan.ts'
import { formatMs } from '../../src/cli/units.ts'
import {
  type CandidateNode,
  NO_COOL_DOWN,
  planRound,
  type RoundInput,
  type VmSituation,
} from '../../src/placement/index.ts'

const MIB = 1024 ** 2
const HERE = '12D3KooWHere'
const THERE = '12D3KooWThere'

function situation(name: string, thereMs: number): VmSituation {
  const latencyMs = new Map([
    [HERE, 52],
    [THERE, thereMs],
  ])
  return {
    id: name,
    name,
    templateId: 'web',
    templateBytes: 250 * MIB,
    mode: 'auto',
    state: 'running',
    ageMs: 600_000,
    privateBytes: 4 * MIB,
    dirtyBytesPerSecond: 0,
    headroomBytes: 64 * MIB,
    samples: [240_000, 260_000, 280_000, 300_000].map((atMs) => ({ atMs, latencyMs })),
    coolDown: NO_COOL_DOWN,
  }
}

const candidate: CandidateNode = {
  peerId: THERE,
  name: 'edge-2',
  takesVms: true,
  templates: new Set(['web']),
  unrunnable: new Set(),
  availableBytes: 4096 * MIB,
  load: 0.2,
  bandwidthBytesPerSecond: null,
  movesIn: 0,
}

function plan(...vms: VmSituation[]) {
  const own = {
    peerId: HERE,
    nowMs: 300_000,
    load: 0,
    movesOut: 0,
    movesIn: 0,
    startedAtMs: [],
    backOffs: new Map(),
  }
  const input: RoundInput = { own, vms, candidates: new Map([[THERE, candidate]]) }
  return planRound(input, () => 0).considered
}

test('a plan shows each move with its sum term by term, and why it is made or not', () => {
  const moves = plan(situation('web-1', 14), situation('web-2', 51), {
    ...situation('web-3', 14),
    mode: 'pinned',
  })
  const notProbing = [{ peerId: 'other', name: 'edge-3', code: 'NOT_PERMITTED' }]
  const text = renderPlan({ node: 'edge-1', paused: true, lookedAtMs: 1, moves, notProbing })
  expect(text).toMatch(/^edge-1: paused, so nothing is moved\n/)
  const [, first] = text.split('\n\n')
  const [{ sum }] = moves as [(typeof moves)[number]]
  const { cost, gainMsS, netMsS } = sum!
  expect(first!.split('\n').map((line) => line.trim().split(/ {2,}/))).toEqual([
    ['web-1 → edge-2', 'moves'],
    ['TERM', 'MS·S'],
    ['clients', `+${Math.round(gainMsS).toLocaleString('en-US')}`, '14 ms there, 52 ms here, for 60 s'],
    [
      'pages',
      (-Math.round(cost.transferMsS)).toLocaleString('en-US'),
      expect.stringMatching(/^4 MiB at .*not measured$/),
    ],
    ['template', '0', 'is there'],
    ['blackout', String(-Math.round(cost.blackoutMsS)), expect.stringMatching(/ ms$/)],
    ['memory', String(-Math.round(cost.memoryMsS)), '68 MiB there'],
    ['load', '0', 'no more waiting for CPUs than here'],
    ['sum', Math.round(netMsS).toLocaleString('en-US'), 'pays'],
  ])
  const { neededMs } = moves.find(({ vmName }) => vmName === 'web-2')!.sum!.lead
  expect(text).toContain(`web-2 → edge-2  stays: saves less than the ${formatMs(neededMs)} that count`)
  expect(text).toContain('web-3 → edge-2  stays: it was not started with --auto')
  expect(text).toMatch(/\n\nedge-3: does not probe clients for this node \(NOT_PERMITTED\)$/)
})

test('without a move that could be considered it says why', () => {
  expect(renderPlan({ node: 'edge-1', paused: false, lookedAtMs: null, moves: [], notProbing: [] })).toBe(
    'edge-1: has not looked yet',
  )
  const moves = plan({ ...situation('web-1', 14), samples: [] })
  expect(renderPlan({ node: 'edge-1', paused: false, lookedAtMs: 1, moves, notProbing: [] })).toBe(
    'web-1  stays: no round trips to its clients were measured',
  )
})
