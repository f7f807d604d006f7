import { MigrationError } from './errors.ts'

/**
 * The hand-over: who may run the VM, and when that changes. Pure: events in,
 * the next state and what to do out. Nothing here knows QEMU, disks or the
 * network.
 *
 *   source                                       destination
 *
 *   copying                                      receiving
 *     | stopped                                     |
 *   stopped  ---- Finish ---------------------->    | loaded, digest the same
 *     | finish-sent: journal doubt                ready
 *   finishing  <--- Ready ---------------------     |
 *     | ready and journaled: send Grant             |
 *   granted  ---- Grant ----------------------->    | grant: journal it
 *     |                                           taking
 *     |                                             | journaled: run
 *     | running  <--- Running -----------------   owner
 *   left
 *
 * Up to `finishing`, every failure leads the source to `stayed`, the
 * destination to `discarded`. From `granted` on, silence leads the source to
 * `in-doubt`, and only what the destination says, or a person, leads out of it.
 * The doubt is on disk before Ready can arrive, so no disk is waited for
 * between Ready and Grant; a crash there costs a question, not a VM.
 */
export type SourceState = 'copying' | 'stopped' | 'finishing' | 'granted' | 'in-doubt' | 'left' | 'stayed'

export type SourceEvent =
  | 'stopped'
  | 'finish-sent'
  | 'ready'
  | 'running'
  /** Something failed, was refused or cancelled; the peer may be gone. */
  | 'failed'
  /** The destination says that it has the Grant, or a person does. */
  | 'verdict-granted'
  /** The destination says that it will never accept this Grant, or a person does. */
  | 'verdict-refused'

/**
 * - `journal-doubt`: write to disk that the Grant may have left.
 * - `send-grant`: only after the doubt is on disk.
 * - `stay`: the VM is ours again: journal, then resume.
 * - `ask`: ask the destination what became of the Grant, until it answers.
 * - `leave`: end the VM here; the destination runs it.
 */
export type SourceAction = 'journal-doubt' | 'send-grant' | 'stay' | 'ask' | 'leave'

type Step<State, Action> = readonly [next: State, action: Action | null]
type Table<State extends string, Event extends string, Action> = Readonly<
  Record<State, Partial<Readonly<Record<Event, Step<State, Action>>>>>
>

const SOURCE: Table<SourceState, SourceEvent, SourceAction> = {
  copying: { stopped: ['stopped', null], failed: ['stayed', 'stay'] },
  stopped: { 'finish-sent': ['finishing', 'journal-doubt'], failed: ['stayed', 'stay'] },
  finishing: { ready: ['granted', 'send-grant'], failed: ['stayed', 'stay'] },
  granted: {
    running: ['left', 'leave'],
    failed: ['in-doubt', 'ask'],
    'verdict-granted': ['left', 'leave'],
    'verdict-refused': ['stayed', 'stay'],
  },
  'in-doubt': {
    running: ['left', 'leave'],
    failed: ['in-doubt', null],
    'verdict-granted': ['left', 'leave'],
    'verdict-refused': ['stayed', 'stay'],
  },
  left: { running: ['left', null], failed: ['left', null], 'verdict-granted': ['left', null] },
  stayed: { failed: ['stayed', null], 'verdict-refused': ['stayed', null] },
}

export type DestinationState = 'receiving' | 'ready' | 'taking' | 'owner' | 'discarded'

export type DestinationEvent =
  | 'loaded'
  | 'grant'
  | 'journaled'
  | 'failed'
  /** The source asks what became of its Grant. */
  | 'asked'

/**
 * - `send-ready`: loaded, verified, paused.
 * - `journal-grant`: write to disk that the VM is ours.
 * - `run`: resume the guest, say Running.
 * - `discard`: forget everything that came.
 * - `refuse`: write to disk that this Grant will never be accepted, discard, then say so.
 */
export type DestinationAction = 'send-ready' | 'journal-grant' | 'run' | 'discard' | 'refuse'

const DESTINATION: Table<DestinationState, DestinationEvent, DestinationAction> = {
  receiving: {
    loaded: ['ready', 'send-ready'],
    failed: ['discarded', 'discard'],
    asked: ['discarded', 'refuse'],
  },
  ready: {
    grant: ['taking', 'journal-grant'],
    failed: ['discarded', 'discard'],
    asked: ['discarded', 'refuse'],
  },
  taking: { journaled: ['owner', 'run'], failed: ['discarded', 'discard'] },
  owner: { failed: ['owner', null], asked: ['owner', null] },
  discarded: { failed: ['discarded', null], asked: ['discarded', 'refuse'] },
}

/** One side of one hand-over: holds its state, refuses wrong moves. */
export class Handover<State extends string, Event extends string, Action> {
  #state: State
  readonly #table: Table<State, Event, Action>

  constructor(table: Table<State, Event, Action>, initial: State) {
    this.#table = table
    this.#state = initial
  }

  get state(): State {
    return this.#state
  }

  /**
   * Takes one step.
   *
   * @returns what is to be done now; null for nothing
   * @throws MigrationError PROTOCOL_VIOLATION when the event can't happen in this state
   */
  on(event: Event): Action | null {
    const step = this.#table[this.#state][event]
    if (step === undefined) {
      throw new MigrationError('PROTOCOL_VIOLATION', `'${event}' can't happen in state '${this.#state}'`, {
        details: { state: this.#state, event },
      })
    }
    this.#state = step[0]
    return step[1]
  }
}

export type SourceHandover = Handover<SourceState, SourceEvent, SourceAction>
export function sourceHandover(initial: 'copying' | 'in-doubt'): SourceHandover {
  return new Handover(SOURCE, initial)
}

export type DestinationHandover = Handover<DestinationState, DestinationEvent, DestinationAction>
export function destinationHandover(): DestinationHandover {
  return new Handover(DESTINATION, 'receiving')
}
