import { destinationMoves } from './destination-moves.ts'
import { sourceMoves } from './source-moves.ts'
import { type Bounds, INTACT, type Machines, START, violation, type World } from './world.ts'

export interface Exploration {
  worlds: number
  /** What was found wrong first, and the shortest way there; null when nothing was. */
  wrong: { what: string; path: string[] } | null
}

/** Every world that can be reached, nearest first, until one is wrong. */
export function explore(
  machines: Machines,
  bounds: Bounds,
  visit?: (world: World) => string | null,
): Exploration {
  const cameFrom = new Map<string, { key: string; name: string } | null>()
  let frontier: [string, World][] = [[JSON.stringify(START), START]]
  cameFrom.set(frontier[0]![0], null)
  const pathTo = (key: string): string[] => {
    const step = cameFrom.get(key)
    return step === null || step === undefined ? [] : [...pathTo(step.key), step.name]
  }
  while (frontier.length > 0) {
    const further: [string, World][] = []
    for (const [key, world] of frontier) {
      const what = violation(world) ?? visit?.(world) ?? null
      if (what !== null) return { worlds: cameFrom.size, wrong: { what, path: pathTo(key) } }
      for (const [name, after] of next(world, machines, bounds)) {
        const afterKey = JSON.stringify(after)
        if (cameFrom.has(afterKey)) continue
        cameFrom.set(afterKey, { key, name })
        further.push([afterKey, after])
      }
    }
    frontier = further
  }
  return { worlds: cameFrom.size, wrong: null }
}

/** Both sides talk, nothing breaks any more: what happens then, most urgent first. */
const TALK: readonly RegExp[] = [
  /^(source|destination) starts/,
  /^source: |^arrival \d+: /,
  /^source hears (taken|refused)/,
  /^destination (hears|answers) question/,
  /^source asks/,
  /^the move fails at the source/,
  /^what the disk refused is written/,
  /^the move is over/,
  /^arrival \d+ fails/,
]
const MAX_TALK_STEPS = 40

/** Whether a world comes to rest with one owner, and nothing in doubt, once both sides have talked. */
export function unsettled(world: World, settled: Set<string>): string | null {
  const path: string[] = []
  const settle = (now: World): string | null => {
    const key = JSON.stringify(now)
    if (settled.has(key)) return null
    if (path.length === MAX_TALK_STEPS) return 'it never comes to rest'
    path.push(key)
    const further = talk(now)
    const wrong =
      further.length === 0 ? atRest(now) : (further.map(settle).find((what) => what !== null) ?? null)
    path.pop()
    if (wrong === null) settled.add(key)
    return wrong
  }
  return settle(world)
}

function talk(world: World): World[] {
  const key = JSON.stringify(world)
  const all = [...next(world, INTACT, { moves: 0, arrivals: 0, mishaps: 0 })]
  // What changes nothing is no step: a question asked again, an answer given again.
  const changing = all.filter(([, after]) => JSON.stringify(after) !== key)
  // Nobody waits for the answer to a question that is not the source's present one.
  const { move } = world.source
  const asked = move?.state === 'in-doubt' ? `question ${move.number} ${move.place}` : 'nothing'
  const steps = changing.filter(([name]) => !/^destination .* question/.test(name) || name.endsWith(asked))
  const urgent = TALK.map((pattern) => steps.filter(([name]) => pattern.test(name))).find(
    ({ length }) => length > 0,
  )
  if (urgent === undefined) return []
  // A start may find one record or the other: all of them must come to rest.
  return /starts/.test(urgent[0]![0]) ? urgent.map(([, after]) => after) : [urgent[0]![1]]
}

function atRest({ source, destination }: World): string | null {
  if (source.move !== null) return `the source is left in '${source.move.state}'`
  const isHere = source.disk.join() === 'ours'
  const isThere = destination.disk.every((record) => record.startsWith('taken'))
  if (isHere === isThere) return `owners: ${source.disk} and ${destination.disk}`
  const running = destination.arrivals.filter(({ guest }) => guest === 'running').length
  if (isThere && running !== 1) return 'the destination owns it and does not run it'
  // A host that crashed took its guest along.
  if (isHere && source.guest === 'paused') return 'the source owns it and does not run it'
  return null
}

/** All that may happen next, with its name. */
function* next(world: World, machines: Machines, bounds: Bounds): Generator<[string, World]> {
  yield* sourceMoves(world, machines, bounds)
  yield* destinationMoves(world, machines, bounds)
}
