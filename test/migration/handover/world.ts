/**
 * A model of all that two nodes, their disks and a network can do to one VM, around the real state machines of
 * handover.ts. A world is plain data; `moves` lists everything that may happen next, each as the world after it.
 *
 * - The network keeps every message for ever and may deliver any of them at any time, as often as it likes:
 *   lost, late, doubled and reordered are all in that. Messages of others come too: statements about this very
 *   Grant that a third member signed, and statements of the right peers about another Grant.
 * - A disk is the set of records that a crash may leave: a synced write leaves one, a failed or an unsynced one
 *   may be there or not.
 * - An agent crashes and starts between any two steps; its guest lives on. A whole host may crash too.
 */
import type { Grant, Heard } from '../../../src/migration/grant.ts'
import {
  DESTINATION_TRANSITIONS,
  type DestinationEffect,
  type DestinationState,
  EFFECT_STEPS,
  SOURCE_TRANSITIONS,
  type SourceEffect,
  type SourceState,
  type Step,
} from '../../../src/migration/handover.ts'

export type Effect = SourceEffect | DestinationEffect

/** The machines under exploration, and the journal writes that are not synced: none, but in a mutant. */
export interface Machines {
  source: typeof SOURCE_TRANSITIONS
  destination: typeof DESTINATION_TRANSITIONS
  unsynced: readonly Effect[]
}
export const INTACT: Machines = {
  source: SOURCE_TRANSITIONS,
  destination: DESTINATION_TRANSITIONS,
  unsynced: [],
}

export type Guest = 'running' | 'paused' | 'none'

/** What is left of an effect that was begun. */
export interface Doing {
  effect: Effect
  step: number
}

export interface Source {
  up: boolean
  guest: Guest
  /** Records that a crash may leave: `ours`, `departing M`, `in-doubt M P`, `gone`. */
  disk: string[]
  /** The move that it is in. */
  move: { number: number; state: SourceState; place: number | null } | null
  doing: Doing | null
  /** Agreed on: the record that says so is on disk. */
  resolved: number[]
}

export interface Arrival {
  place: number
  move: number
  state: DestinationState
  guest: Guest
  doing: Doing | null
}

export interface Destination {
  up: boolean
  /** `nothing`, `taken M P`. */
  disk: string[]
  arrivals: Arrival[]
  places: number
}

export interface World {
  source: Source
  destination: Destination
  /** Everything that was ever sent. */
  network: string[]
  moves: number
  /** Crashes and failed writes so far. */
  mishaps: number
}

export interface Bounds {
  moves: number
  /** Arrivals that offers, told again and again, may make. */
  arrivals: number
  mishaps: number
}

export const START: World = {
  source: { up: true, guest: 'running', disk: ['ours'], move: null, doing: null, resolved: [] },
  destination: { up: true, disk: ['nothing'], arrivals: [], places: 0 },
  network: [],
  moves: 0,
  mishaps: 0,
}

export const SOURCE = 'source'
export const DESTINATION = 'destination'
export const STRANGER = 'stranger'

export const grantOf = (move: number, place: number | null, vmId = 'vm'): Grant => ({
  migrationId: `m${move}`,
  vmId,
  epoch: 2,
  source: SOURCE,
  destination: DESTINATION,
  place: `p${place}`,
  digest: 'd',
})
export const heard = (word: Heard['word'], grant: Grant, signer: string): Heard => ({ word, grant, signer })

/** Changes a copy; lists of records and messages are replaced, never changed. */
export function change(world: World, edit: (copy: World) => void): World {
  const { source, destination } = world
  const copy = {
    ...world,
    source: { ...source, move: source.move === null ? null : { ...source.move } },
    destination: { ...destination, arrivals: destination.arrivals.map((arrival) => ({ ...arrival })) },
  }
  edit(copy)
  return copy
}

export function send(world: World, message: string): void {
  if (!world.network.includes(message)) world.network = [...world.network, message].sort()
}

/** What a crash in the middle of this write may leave. */
export function withCandidate(disk: readonly string[], record: string): string[] {
  return disk.includes(record) ? [...disk] : [...disk, record].sort()
}

export function advance(node: { doing: Doing | null }, effect: Effect): void {
  const step = node.doing!.step + 1
  node.doing = step < EFFECT_STEPS[effect].length ? { effect, step } : null
}

export function afterGuestStep(guest: Guest, { guest: what }: Extract<Step, { guest: unknown }>): Guest {
  if (what === 'end') return 'none'
  return guest === 'none' ? 'none' : 'running'
}

export function* some(name: string, world: World | null): Generator<[string, World]> {
  if (world !== null) yield [name, world]
}

export function isTaken(record: string): boolean {
  return record.startsWith('taken')
}

/** What must be true of every world; says what isn't. */
export function violation({ source, destination }: World): string | null {
  const runningThere = destination.arrivals.filter(({ guest }) => guest === 'running').length
  if (Number(source.guest === 'running') + runningThere > 1) return 'two guests run'
  const mayForget = destination.disk.some((record) => !isTaken(record))
  if (runningThere > 0 && mayForget) return 'the destination runs what a crash could make it forget'
  if (source.disk.includes('gone') && mayForget) return 'a crash could leave no owner'
  const doubts = source.disk.filter((record) => record.startsWith('in-doubt'))
  const returned = doubts.find((record) => source.resolved.includes(Number(record.split(' ')[1])))
  if (returned !== undefined) return `${returned} was resolved, and a crash could bring it back`
  return null
}
