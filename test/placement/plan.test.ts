import { expect, test } from 'vitest'
import {
  afterFailure,
  afterSuccess,
  type CandidateNode,
  DEFAULT_CALM,
  type OwnSituation,
  pairOf,
  planRound,
  type StayCode,
  type VmSituation,
} from '../../src/placement/index.ts'
import {
  byPeerId,
  candidateNode,
  HERE,
  MIB,
  NOW_MS,
  ownSituation,
  SAMPLE_GAP_MS,
  steadySamples,
  vmSituation,
} from './situations.ts'

const FASTER = { [HERE]: 120, near: 20 }
const always = () => 0

function planned(
  vm: Partial<VmSituation> = {},
  near: Partial<CandidateNode> = {},
  own: Partial<OwnSituation> = {},
) {
  return planRound(
    {
      own: ownSituation(own),
      vms: [vmSituation({ samples: steadySamples(FASTER), ...vm })],
      candidates: byPeerId(candidateNode('near', near)),
    },
    always,
  )
}

test('a VM goes to a node that its clients have been nearer to for a while, and the sum says why', () => {
  const { chosen, considered } = planned()
  expect(considered).toHaveLength(1)
  expect(chosen).toMatchObject({ vmName: 'web-1', to: { peerId: 'near' }, verdict: { kind: 'move' } })
  const { lead, cost, gainMsS, netMsS } = chosen!.sum!
  expect(lead).toMatchObject({ hereMs: 120, thereMs: 20, savedMs: 100, samples: 20, stableMs: 57_000 })
  // 10 MiB over 12.5 MB/s; a second of busy link is 500 ms·s.
  expect(cost.transferMs).toBeCloseTo(838.9, 1)
  expect(cost.transferMsS).toBeCloseTo(419.4, 1)
  expect(cost).toMatchObject({ templateBytes: 0, templateMsS: 0, bandwidthMeasured: true })
  expect(gainMsS).toBeCloseTo((100 * 57_000 * DEFAULT_CALM.lastsTimes) / 1000)
  expect(netMsS).toBeCloseTo(gainMsS - cost.totalMsS)
})

const staying: [StayCode, Partial<VmSituation>, Partial<CandidateNode>?, Partial<OwnSituation>?][] = [
  ['pinned', { mode: 'pinned' }],
  ['not-running', { state: 'in-doubt' }],
  ['not-running', { state: 'paused' }],
  ['not-running', { state: 'departing' }],
  ['too-young', { ageMs: 1_000 }],
  [
    'in-cool-down',
    { coolDown: { remainingMs: 1, lengthMs: 60_000, previousNode: 'x', sinceMoveMs: 59_999 } },
  ],
  ['vm-backs-off', {}, {}, { backOffs: new Map([['vm', { failures: 1, untilMs: NOW_MS + 1 }]]) }],
  ['not-measured', { samples: [] }],
  ['not-measured', { samples: steadySamples({ near: 20 }) }],
  ['not-measured', { samples: steadySamples({ [HERE]: 120 }) }],
  // The last probes are too long past to decide by.
  ['not-measured', { samples: steadySamples(FASTER).map((s) => ({ ...s, atMs: s.atMs - 120_000 })) }],
  ['takes-no-vms', {}, { takesVms: false }],
  ['cannot-run-it', {}, { unrunnable: new Set(['template']) }],
  ['no-room', {}, { availableBytes: 70 * MIB }],
  ['no-room', {}, { availableBytes: 300 * MIB, templates: new Set() }],
  ['destination-backs-off', {}, {}, { backOffs: new Map([['near', { failures: 1, untilMs: NOW_MS + 1 }]]) }],
  [
    'destination-backs-off',
    {},
    {},
    { backOffs: new Map([[pairOf('vm', 'near'), { failures: 1, untilMs: NOW_MS + 1 }]]) },
  ],
  ['saves-too-little', { samples: steadySamples({ [HERE]: 20, near: 120 }) }],
  ['saves-too-little', { samples: steadySamples({ [HERE]: 120, near: 115 }) }],
  ['saves-too-little', { samples: steadySamples({ [HERE]: 3, near: 0.5 }) }],
  ['not-held', { samples: steadySamples(FASTER, 1) }],
  ['costs-more', { samples: steadySamples(FASTER, 3) }, { bandwidthBytesPerSecond: 100_000 }],
  ['costs-more', {}, { templates: new Set(), bandwidthBytesPerSecond: 1_000_000 }],
  // Never measured: the default is a slow uplink.
  ['costs-more', { privateBytes: 100 * MIB }, { bandwidthBytesPerSecond: null }],
  ['costs-more', {}, { load: 100 }],
  ['node-busy', {}, {}, { movesOut: 1 }],
  ['destination-busy', {}, { movesIn: 1 }],
  ['budget-spent', {}, {}, { startedAtMs: new Array(DEFAULT_CALM.maxMovesPerHour).fill(NOW_MS - 1_000) }],
]

test.each(staying)('stays: %s (%#)', (code, vm, near, own) => {
  const { chosen, considered } = planned(vm, near, own)
  expect(chosen).toBeNull()
  expect(considered).toHaveLength(1)
  expect(considered[0]!.verdict).toMatchObject({ kind: 'stay', reason: { code } })
})

test('a node that is as busy as this one costs no waiting, one that is busier costs what is more', () => {
  const overloadMsS = (there: number, here: number) =>
    planned({}, { load: there }, { load: here }).considered[0]!.sum!.overloadMsS
  expect(overloadMsS(6, 6)).toBe(0)
  expect(overloadMsS(2, 6)).toBe(0)
  expect(overloadMsS(6, 2)).toBe(overloadMsS(5, 0))
  expect(overloadMsS(6, 2)).toBeGreaterThan(0)
})

test('moves of the hour before this one are not counted', () => {
  const startedAtMs = new Array<number>(DEFAULT_CALM.maxMovesPerHour).fill(NOW_MS - 3_600_001)
  expect(planned({}, {}, { startedAtMs }).chosen).not.toBeNull()
})

test('of two equal nodes the one that holds the template wins, and one that is better by little loses to it', () => {
  const samples = steadySamples({ [HERE]: 120, lacks: 19, holds: 20 })
  const { chosen, considered } = planRound(
    {
      own: ownSituation(),
      vms: [vmSituation({ samples })],
      candidates: byPeerId(candidateNode('lacks', { templates: new Set() }), candidateNode('holds')),
    },
    always,
  )
  expect(chosen?.to?.peerId).toBe('holds')
  expect(considered[1]!.sum!.cost).toMatchObject({ templateBytes: 250 * MIB })
})

test('one move at a time: the VM that gains most, and each VM to the best of its nodes', () => {
  const input = {
    own: ownSituation(),
    vms: [
      vmSituation({ id: 'little', samples: steadySamples({ [HERE]: 80, near: 20, far: 40 }) }),
      vmSituation({ id: 'much', samples: steadySamples({ [HERE]: 200, near: 20, far: 40 }) }),
    ],
    candidates: byPeerId(candidateNode('near'), candidateNode('far')),
  }
  const { chosen, considered } = planRound(input, always)
  expect(chosen).toMatchObject({ vmId: 'much', to: { peerId: 'near' } })
  const others = considered.filter((move) => move !== chosen)
  expect(others).toHaveLength(3)
  for (const { verdict } of others) expect(verdict).toMatchObject({ reason: { code: 'another-gains-more' } })
  expect(planRound(input, always)).toEqual({ chosen, considered })
})

test('a VM whose best node is busy waits for it, and lets another VM go first', () => {
  const { chosen, considered } = planRound(
    {
      own: ownSituation(),
      vms: [
        vmSituation({ id: 'waits', samples: steadySamples({ [HERE]: 200, busy: 20, free: 40 }) }),
        vmSituation({ id: 'goes', samples: steadySamples({ [HERE]: 80, free: 40 }) }),
      ],
      candidates: byPeerId(candidateNode('busy', { movesIn: 1 }), candidateNode('free')),
    },
    always,
  )
  expect(chosen).toMatchObject({ vmId: 'goes', to: { peerId: 'free' } })
  expect(considered[0]).toMatchObject({ vmId: 'waits', verdict: { reason: { code: 'destination-busy' } } })
})

test('nodes that see the same do not all act in the same round', () => {
  const input = {
    own: ownSituation(),
    vms: [vmSituation({ samples: steadySamples(FASTER) })],
    candidates: byPeerId(candidateNode('near')),
  }
  const { chosen, considered } = planRound(input, () => 0.999)
  expect(chosen).toBeNull()
  expect(considered[0]!.verdict).toEqual({ kind: 'stay', reason: { code: 'next-round' } })
})

test('a lead that comes and goes is as old as its last return', () => {
  const samples = steadySamples(FASTER)
  const gone = samples.toSpliced(-4, 1, {
    ...samples.at(-4)!,
    latencyMs: new Map([
      [HERE, 20],
      ['near', 20],
    ]),
  })
  const { considered } = planned({ samples: gone })
  expect(considered[0]!.sum!.lead).toMatchObject({ samples: 3, stableMs: 2 * SAMPLE_GAP_MS })
  // A probe that was lost doesn't end it.
  const lost = samples.toSpliced(-4, 1, { ...samples.at(-4)!, latencyMs: new Map([[HERE, 120]]) })
  expect(planned({ samples: lost }).considered[0]!.sum!.lead).toMatchObject({ samples: 19, stableMs: 57_000 })
})

test('a guest that writes while it is sent costs more, and no more than a guest that is slowed down', () => {
  const link = { bandwidthBytesPerSecond: 1_000_000 }
  const dirtied = (dirtyBytesPerSecond: number) =>
    planned({ dirtyBytesPerSecond }, link).considered[0]!.sum!.cost.dirtiedBytes
  expect(dirtied(0)).toBe(0)
  expect(dirtied(500_000)).toBeCloseTo(10 * MIB)
  expect(dirtied(800_000)).toBeCloseTo(40 * MIB)
  expect(dirtied(9_000_000)).toBe(dirtied(800_000))
})

test('a failure keeps VM and node waiting, twice as long each time, until a move is made', () => {
  const once = afterFailure(new Map(), ['vm', 'near'], NOW_MS, always)
  expect(once.get('near')).toEqual({ failures: 1, untilMs: NOW_MS + 30_000 })
  const twice = afterFailure(once, ['near'], NOW_MS, always)
  expect(twice.get('near')).toEqual({ failures: 2, untilMs: NOW_MS + 60_000 })
  expect(twice.get('vm')).toEqual(once.get('vm'))
  let many = twice
  for (let failure = 0; failure < 30; failure++) many = afterFailure(many, ['near'], NOW_MS, () => 0.5)
  expect(many.get('near')!.untilMs).toBe(NOW_MS + 1_800_000 * 1.25)
  expect(afterSuccess(twice, ['vm', 'near']).size).toBe(0)
  // Kept for as long as it says something, so that it doesn't grow with all that ever failed.
  expect(afterFailure(twice, ['x'], NOW_MS + 10_000_000, always).size).toBe(1)
})
