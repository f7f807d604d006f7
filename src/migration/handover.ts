import type { PeerIdText } from '../domain/vm.ts'
import { MigrationError } from './errors.ts'
import { type Grant, type Heard, sameGrant } from './grant.ts'

/**
 * The hand-over: who may run the VM, and when that changes. Pure: events in,
 * the next state and what to do out. Nothing here knows QEMU, disks or the
 * network. `test/migration/handover-exploration.test.ts` walks through all that
 * two of these, their disks and a network can do.
 *
 *   source                                        destination
 *
 *   copying                                       receiving           (place p: this one arrival)
 *     | stopped                                      |
 *   stopped ----- Finish (digest) ------------->     | loaded, digest the same
 *     | finish-sent: doubt                        ready
 *   finishing                                        |
 *     | journaled            <--- Ready --------     |
 *   doubtful                                         |
 *     | ready: grant                                 |
 *   granted ----- Grant (p, signed) ----------->     | grant: take
 *     |  \                                        taking ---------.
 *     |   failed: ask                                | journaled: run \ not-journaled: untake
 *     |     \                                     owner             untaking
 *     | taken  in-doubt <--- Taken, signed -------   |                | undone
 *     |  leave  |  \--- question ----------------->  | asked        discarded
 *     |         |                                    | confirm        | asked
 *     |         | <--- Taken, signed -------------   |                | refuse
 *     |         | <--- Refused (p), signed ---------------------------'
 *     | <-------+ taken: leave
 *   left        | refused: stay
 *             stayed
 *
 * Up to `doubtful`, every failure leads the source to `stayed`, the destination
 * to `discarded`. From `granted` on, silence leads the source to `in-doubt`, and
 * only what the destination says, or a person, leads out of it. The doubt is on
 * disk before the Grant leaves, so a crash costs a question, not a VM.
 *
 * A Grant is for one arrival: it names the place that the destination made up
 * for it, which it holds in memory alone and which no other arrival ever has.
 * When that arrival is gone, by whatever cause, its Grant can't be taken any
 * more: so a refusal is for good, and needs no record.
 */
export type SourceState =
  | 'copying'
  | 'stopped'
  /** The doubt is on its way to disk. */
  | 'finishing'
  /** The doubt is on disk, no Grant has left. */
  | 'doubtful'
  | 'granted'
  | 'in-doubt'
  | 'left'
  | 'stayed'

export type SourceEvent =
  | 'stopped'
  | 'finish-sent'
  /** The doubt is on disk. */
  | 'journaled'
  | 'ready'
  /** Something failed, was refused or cancelled; the peer may be gone. */
  | 'failed'
  /** The destination says that it owns the VM: Running, or an answer. */
  | 'taken'
  /** The destination says that it will never take this Grant. */
  | 'refused'
  /** A person says who has it. */
  | 'decided-destination'
  | 'decided-source'

export type SourceEffect = 'doubt' | 'grant' | 'ask' | 'stay' | 'leave'

export type DestinationState = 'receiving' | 'ready' | 'taking' | 'untaking' | 'owner' | 'discarded'

export type DestinationEvent =
  | 'loaded'
  | 'grant'
  | 'journaled'
  /** The write failed: what is on disk is not known. */
  | 'not-journaled'
  /** On disk is that nothing was taken. */
  | 'undone'
  | 'failed'
  /** The source asks what became of its Grant. */
  | 'asked'

export type DestinationEffect = 'ready' | 'take' | 'run' | 'untake' | 'discard' | 'confirm' | 'refuse'

/** One thing to do. `journal` is done when it is on disk, synced; a failed one may be on disk or not. */
export type Step =
  | { journal: 'in-doubt' | 'ours' | 'gone' | 'taken' | 'nothing' }
  | { guest: 'resume' | 'end' }
  | { send: 'grant' | 'question' | 'ready' | 'taken' | 'refused' }

/**
 * What each effect is, in order: a step begins when the one before it is done.
 * Where a disk refuses: `stay` goes on all the same, as nobody else can have the
 * VM, and is written later; `leave` and `untake` wait until it is written.
 */
export const EFFECT_STEPS: Readonly<Record<SourceEffect | DestinationEffect, readonly Step[]>> = {
  doubt: [{ journal: 'in-doubt' }],
  grant: [{ send: 'grant' }],
  ask: [{ send: 'question' }],
  stay: [{ journal: 'ours' }, { guest: 'resume' }],
  leave: [{ journal: 'gone' }, { guest: 'end' }],
  ready: [{ send: 'ready' }],
  take: [{ journal: 'taken' }],
  run: [{ guest: 'resume' }, { send: 'taken' }],
  untake: [{ journal: 'nothing' }, { guest: 'end' }],
  discard: [{ guest: 'end' }],
  confirm: [{ send: 'taken' }],
  refuse: [{ guest: 'end' }, { send: 'refused' }],
}

/**
 * What must be true of a statement before it counts.
 *
 * - `by-peer`: the other side of this hand-over signed it.
 * - `this-grant`: it names this Grant in every field.
 */
export type Check = 'by-peer' | 'this-grant'
const SIGNED_FOR_THIS: readonly Check[] = ['by-peer', 'this-grant']

export type Transition<State, Effect> = readonly [
  next: State,
  effect: Effect | null,
  checks?: readonly Check[],
]
export type Transitions<State extends string, Event extends string, Effect> = Readonly<
  Record<State, Partial<Readonly<Record<Event, Transition<State, Effect>>>>>
>

export const SOURCE_TRANSITIONS: Transitions<SourceState, SourceEvent, SourceEffect> = {
  copying: { stopped: ['stopped', null], failed: ['stayed', 'stay'] },
  stopped: { 'finish-sent': ['finishing', 'doubt'], failed: ['stayed', 'stay'] },
  finishing: { journaled: ['doubtful', null], failed: ['stayed', 'stay'] },
  doubtful: { ready: ['granted', 'grant'], failed: ['stayed', 'stay'] },
  granted: {
    taken: ['left', 'leave', SIGNED_FOR_THIS],
    refused: ['stayed', 'stay', SIGNED_FOR_THIS],
    failed: ['in-doubt', 'ask'],
  },
  'in-doubt': {
    taken: ['left', 'leave', SIGNED_FOR_THIS],
    refused: ['stayed', 'stay', SIGNED_FOR_THIS],
    'decided-destination': ['left', 'leave'],
    'decided-source': ['stayed', 'stay'],
    failed: ['in-doubt', null],
  },
  left: { failed: ['left', null] },
  stayed: { failed: ['stayed', null] },
}

export const DESTINATION_TRANSITIONS: Transitions<DestinationState, DestinationEvent, DestinationEffect> = {
  receiving: {
    loaded: ['ready', 'ready'],
    failed: ['discarded', 'discard'],
    asked: ['discarded', 'refuse'],
  },
  ready: {
    grant: ['taking', 'take', SIGNED_FOR_THIS],
    failed: ['discarded', 'discard'],
    asked: ['discarded', 'refuse'],
  },
  // Whoever asks now waits for what comes of it.
  taking: { journaled: ['owner', 'run'], 'not-journaled': ['untaking', 'untake'], failed: ['taking', null] },
  untaking: { undone: ['discarded', null], failed: ['untaking', null] },
  owner: { asked: ['owner', 'confirm'], failed: ['owner', null] },
  discarded: { asked: ['discarded', 'refuse'], failed: ['discarded', null] },
}

/** One side of one hand-over: holds its state, refuses wrong moves. */
export class Handover<State extends string, Event extends string, Effect> {
  readonly #transitions: Transitions<State, Event, Effect>
  readonly #peer: PeerIdText
  #state: State
  #grant: Grant | null

  constructor(
    transitions: Transitions<State, Event, Effect>,
    init: { state: State; peer: PeerIdText; grant?: Grant },
  ) {
    this.#transitions = transitions
    this.#state = init.state
    this.#peer = init.peer
    this.#grant = init.grant ?? null
  }

  get state(): State {
    return this.#state
  }

  /** What this hand-over is about; null before the last page is known. */
  get grant(): Grant | null {
    return this.#grant
  }

  /** The last page is known: what a Grant must name from now on. Once. */
  settleOn(grant: Grant): void {
    if (this.#grant !== null) throw this.#violation('its Grant is settled on already')
    this.#grant = grant
  }

  /**
   * Takes one step.
   *
   * @param heard - of `grant`, `taken`, `refused`: what was said, and who signed it
   * @returns what is to be done now; null for nothing
   * @throws MigrationError PROTOCOL_VIOLATION when the event can't happen in this state, or what was heard doesn't
   *   count; nothing has changed then
   */
  on(event: Event, heard?: Heard): Effect | null {
    const transition = this.#transitions[this.#state][event]
    if (transition === undefined) throw this.#violation(`'${event}' can't happen in state '${this.#state}'`)
    const [next, effect, checks = []] = transition
    const failed = checks.find((check) => heard === undefined || !this.#holds(check, heard))
    if (failed !== undefined) throw this.#violation(`'${event}' in state '${this.#state}' is not ${failed}`)
    this.#state = next
    return effect
  }

  #holds(check: Check, { grant, signer }: Heard): boolean {
    if (check === 'by-peer') return signer === this.#peer
    return this.#grant !== null && sameGrant(grant, this.#grant)
  }

  #violation(message: string): MigrationError {
    return new MigrationError('PROTOCOL_VIOLATION', message, { details: { state: this.#state } })
  }
}

export type SourceHandover = Handover<SourceState, SourceEvent, SourceEffect>
export type DestinationHandover = Handover<DestinationState, DestinationEvent, DestinationEffect>

/** A move that begins. */
export function sourceHandover(destination: PeerIdText): SourceHandover {
  return new Handover(SOURCE_TRANSITIONS, { state: 'copying', peer: destination })
}

/** A move whose doubt an earlier agent left on disk. */
export function doubtedHandover(grant: Grant): SourceHandover {
  return new Handover(SOURCE_TRANSITIONS, { state: 'in-doubt', peer: grant.destination, grant })
}

export function destinationHandover(source: PeerIdText): DestinationHandover {
  return new Handover(DESTINATION_TRANSITIONS, { state: 'receiving', peer: source })
}
