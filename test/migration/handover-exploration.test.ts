import { expect, test } from 'vitest'
import {
  DESTINATION_TRANSITIONS,
  EFFECT_STEPS,
  SOURCE_TRANSITIONS,
  type Transitions,
} from '../../src/migration/handover.ts'
import { explore, unsettled } from './handover/explore.ts'
import { type Bounds, INTACT, type Machines } from './handover/world.ts'

/** Seconds on an idle machine. */
const TIMEOUT_MS = 120_000
const BOUNDS: Bounds = { moves: 1, arrivals: 2, mishaps: 2 }

// `npm run explore` goes further.
test.each<[string, Bounds]>([
  ['one move, two mishaps', BOUNDS],
  ['a move after another', { moves: 2, arrivals: 2, mishaps: 0 }],
])(
  '%s: one owner, no VM lost, in doubt no longer than it takes both sides to talk',
  (name, bounds) => {
    const settled = new Set<string>()
    const { worlds, wrong } = explore(INTACT, bounds, (world) => unsettled(world, settled))
    console.log(`${name}: ${worlds} worlds`)
    expect(wrong).toBeNull()
  },
  TIMEOUT_MS,
)

/** Machines with one thing broken each. */
function* mutants(): Generator<[string, Machines]> {
  for (const [effect, steps] of Object.entries(EFFECT_STEPS)) {
    const unsynced = [effect as keyof typeof EFFECT_STEPS]
    if (steps.some((step) => 'journal' in step))
      yield [`${effect} without its fsync`, { ...INTACT, unsynced }]
  }
  for (const [name, source] of withoutOneCheck(SOURCE_TRANSITIONS))
    yield [`source: ${name}`, { ...INTACT, source }]
  for (const [name, destination] of withoutOneCheck(DESTINATION_TRANSITIONS)) {
    yield [`destination: ${name}`, { ...INTACT, destination }]
  }
}

function* withoutOneCheck<S extends string, E extends string, F>(
  transitions: Transitions<S, E, F>,
): Generator<[string, Transitions<S, E, F>]> {
  for (const state of Object.keys(transitions) as S[]) {
    for (const event of Object.keys(transitions[state]) as E[]) {
      const [to, effect, checks = []] = transitions[state][event]!
      for (const left of checks) {
        const fewer = [to, effect, checks.filter((check) => check !== left)] as const
        const changed = { ...transitions, [state]: { ...transitions[state], [event]: fewer } }
        yield [`'${event}' in '${state}' without ${left}`, changed]
      }
    }
  }
}

test.each([...mutants()])(
  '%s: the exploration finds what that breaks',
  (_, machines) => {
    expect(explore(machines, BOUNDS).wrong).not.toBeNull()
  },
  TIMEOUT_MS,
)
