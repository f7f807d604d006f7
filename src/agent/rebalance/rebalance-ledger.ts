import type { ConsideredMove } from '../../placement/index.ts'
import type { EventHub } from '../event-hub.ts'
import type { NodeSwitches } from '../node-switches.ts'
import type { Rebalancer, RebalancerStatus } from './rebalancer.ts'

/** What the rebalancer did and saw, for people; each decision is an event. */
export class RebalanceLedger implements Rebalancer {
  readonly #switches: NodeSwitches
  readonly #events: EventHub
  readonly #moves = { decided: 0, made: 0, failed: 0 }
  readonly #verdicts: RebalancerStatus['verdicts'] = {}
  #considered: readonly ConsideredMove[] = []
  #vms = 0
  #lookedAtMs: number | null = null

  constructor(components: { switches: NodeSwitches; events: EventHub }) {
    this.#switches = components.switches
    this.#events = components.events
  }

  get isPaused(): boolean {
    return this.#switches.isOn('rebalancingPaused')
  }

  status(): RebalancerStatus {
    const lookedAtMs = this.#lookedAtMs
    const [moves, verdicts] = [{ ...this.#moves }, { ...this.#verdicts }]
    return { paused: this.isPaused, moves, verdicts, vms: this.#vms, lookedAtMs }
  }

  plan(): readonly ConsideredMove[] {
    return this.#considered
  }

  async pause(): Promise<void> {
    if (await this.#switches.set('rebalancingPaused', true))
      this.#events.publish({ kind: 'rebalance-paused' })
  }

  async resume(): Promise<void> {
    if (await this.#switches.set('rebalancingPaused', false))
      this.#events.publish({ kind: 'rebalance-resumed' })
  }

  /**
   * The rebalancer has looked.
   *
   * @param vms - of this node that it may move
   */
  looked(considered: readonly ConsideredMove[], { vms, atMs }: { vms: number; atMs: number }): void {
    this.#considered = considered
    for (const { verdict } of considered) {
      const code = verdict.kind === 'move' ? 'move' : verdict.reason.code
      this.#verdicts[code] = (this.#verdicts[code] ?? 0) + 1
    }
    this.#vms = vms
    this.#lookedAtMs = atMs
  }

  /** It makes a move. */
  decided({ vmName, to, sum }: ConsideredMove): void {
    this.#moves.decided++
    this.#events.publish({
      kind: 'rebalance-decided',
      vm: vmName,
      to: to?.peerId,
      node: to?.name,
      savedMs: sum?.lead.savedMs,
      netMsS: sum?.netMsS,
    })
  }

  /** That move has ended. @param failure - why the VM is not there; null: it is */
  ended({ vmName, to }: ConsideredMove, failure: { code: string; message: string } | null): void {
    const facts = { vm: vmName, to: to?.peerId, node: to?.name }
    if (failure === null) {
      this.#moves.made++
      this.#events.publish({ kind: 'rebalance-moved', ...facts })
      return
    }
    this.#moves.failed++
    const { code, message } = failure
    this.#events.publish({ kind: 'rebalance-failed', ...facts, code, message })
  }
}
