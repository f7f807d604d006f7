import type { PeerIdText } from '../domain/vm.ts'
import { unlessAborted } from '../domain/wait.ts'
import { MAX_ARRIVALS_PER_PEER, MAX_MOVES } from './protocol.ts'

/** So many at a time; who comes first goes first. */
export class Lanes {
  readonly #waiting: PromiseWithResolvers<void>[] = []
  #free: number

  constructor(lanes: number) {
    this.#free = lanes
  }

  /**
   * Resolves when a lane is free.
   *
   * @returns leaves it when disposed
   * @throws the signal's reason
   */
  async enter(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted()
    if (this.#free > 0) this.#free--
    else await this.#turn(signal)
    const left = new DisposableStack()
    left.defer(() => this.#leave())
    return left
  }

  async #turn(signal: AbortSignal): Promise<void> {
    const turn = Promise.withResolvers<void>()
    this.#waiting.push(turn)
    try {
      await unlessAborted(turn.promise, signal)
    } catch (error) {
      const place = this.#waiting.indexOf(turn)
      if (place >= 0) this.#waiting.splice(place, 1)
      // The lane was handed over in the moment of the abort.
      else this.#leave()
      throw error
    }
  }

  #leave(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#free++
    else next.resolve()
  }
}

/** The moves from this node, whichever commands they belong to: so many in all, and no more to a peer than it takes. */
export class MoveLanes {
  readonly #all = new Lanes(MAX_MOVES)
  readonly #peers = new Map<PeerIdText, { lanes: Lanes; users: number }>()

  /** @throws the signal's reason */
  async enter(to: PeerIdText, signal: AbortSignal): Promise<Disposable> {
    using entering = new DisposableStack()
    const peer = this.#peers.get(to) ?? { lanes: new Lanes(MAX_ARRIVALS_PER_PEER), users: 0 }
    this.#peers.set(to, peer)
    peer.users++
    entering.defer(() => {
      peer.users--
      if (peer.users === 0) this.#peers.delete(to)
    })
    entering.use(await peer.lanes.enter(signal))
    entering.use(await this.#all.enter(signal))
    return entering.move()
  }
}
