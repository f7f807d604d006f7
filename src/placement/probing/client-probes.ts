import type { VmClient } from '../../domain/client.ts'
import { steadyNowMs } from '../../domain/clock.ts'
import { DroverError } from '../../domain/errors.ts'
import { Repeating } from '../../domain/repeating.ts'
import type { TemplateId } from '../../domain/template.ts'
import type { PeerIdText, VmId } from '../../domain/vm.ts'
import { type ProbeTarget, targetKey } from '../../wire/probe-messages.ts'
import type { ClientRoundTripsMs, LatencySample } from '../latency.ts'
import { type AskableNode, shortlist } from '../shortlist.ts'
import type { ProbeAnswer } from './ask.ts'
import { AskedPeers } from './asked-peers.ts'
import type { HostNames } from './host-names.ts'
import { isSteady, roundDelayMs, STEADY_ROUNDS } from './pace.ts'
import type { Prober } from './prober.ts'
import { planProbes, type Round, type VmToProbe } from './round.ts'
import { VmLatency } from './vm-latency.ts'

/** With nothing to probe, how soon a VM that comes is seen. */
const IDLE_MS = 1_000

/** A VM that runs here and may be moved to its clients. */
export interface ProbedVm {
  id: VmId
  templateId: TemplateId
  clients: readonly VmClient[]
}

/** A node that VMs could go to, as it announced itself. */
export interface ProbingNode extends Omit<AskableNode, 'holdsTemplate'> {
  /** Whether it holds a template of one of the VMs. */
  holds: (id: TemplateId) => boolean
}

export interface ClientProbesComponents {
  prober: Pick<Prober, 'measure'>
  names: Pick<HostNames, 'addressOf'>
  /** VMs now; those that may not be moved are left out. */
  vms: () => Promise<readonly ProbedVm[]>
  /** Nodes that could take VMs now, this one not among them. */
  nodes: () => readonly ProbingNode[]
  /** This node, with its coordinate, if it has one. */
  self: () => Pick<AskableNode, 'peerId' | 'coordinate'>
  /** See ask.ts. */
  ask: (peer: PeerIdText, targets: readonly ProbeTarget[], signal: AbortSignal) => Promise<ProbeAnswer>
}

export interface ClientProbesInit {
  /** Of samples; the planner's clock. */
  now?: () => number
  /** From 0 to below 1. */
  random?: () => number
}

/**
 * Knows what the clients of this node's VMs have from here and from other
 * nodes. One loop: in each round it probes clients from here, and has nodes of
 * the shortlist do so at the same time, so that a sample compares like with
 * like. A round every three seconds while something changes (pace.ts).
 */
export class ClientProbes {
  readonly #components: ClientProbesComponents
  readonly #now: () => number
  readonly #random: () => number
  readonly #latencies = new Map<VmId, VmLatency>()
  readonly #peers = new AskedPeers()
  readonly #probing = new Repeating()
  /** Before the next round: none before the first. */
  #pauseMs = 0

  constructor(
    components: ClientProbesComponents,
    { now = steadyNowMs, random = Math.random }: ClientProbesInit = {},
  ) {
    this.#components = components
    this.#now = now
    this.#random = random
  }

  start(): void {
    this.#probing.start(
      () => this.#pauseMs,
      async (signal) => {
        this.#pauseMs = this.#delayMs(await this.round(signal))
      },
    )
  }

  async stop(): Promise<void> {
    await this.#probing.stop()
  }

  /**
   * What is known of a VM's clients, oldest first; nothing of one that isn't probed.
   *
   * @param named - clients that its user names: of those that were others in the last round nothing is told
   */
  samples(id: VmId, named: readonly VmClient[]): readonly LatencySample[] {
    const known = this.#latencies.get(id)
    return known === undefined || (named.length > 0 && !known.isOf(named)) ? [] : known.samples
  }

  /** Peers that would not probe for this node when they were asked last, or didn't answer, with the code of why. */
  troubles(): ReadonlyMap<PeerIdText, string> {
    return this.#peers.troubles()
  }

  /**
   * One round: a sample for each VM that there was room for. Takes ASK_TIMEOUT_MS and a look-up at most.
   *
   * @returns the targets that one node was asked for
   */
  async round(signal: AbortSignal): Promise<number> {
    const round = planProbes(await this.#waiting(signal))
    const [own, ...answers] = await Promise.all([
      this.#measure(round.own),
      ...[...round.asked].map(([peer, targets]) => this.#ask(peer, targets, signal)),
    ])
    if (!signal.aborted) this.#take(round, own, new Map(answers.filter((answer) => answer !== null)))
    return round.own.length
  }

  #delayMs(targets: number): number {
    if (targets === 0) return IDLE_MS
    const { peerId } = this.#components.self()
    const all = [...this.#latencies.values()]
    const settled = all.every((vm) => vm.silentRounds >= STEADY_ROUNDS || isSteady(vm.samples, peerId))
    return roundDelayMs({ isSteady: settled, targets, random: this.#random })
  }

  /** Those that waited longest first. */
  async #waiting(signal: AbortSignal): Promise<VmToProbe<VmLatency>[]> {
    const vms = (await this.#components.vms()).filter(({ clients }) => clients.length > 0)
    this.#keep(vms)
    const nowMs = this.#now()
    const nodes = this.#components.nodes()
    const self = this.#components.self()
    const coordinates = new Map([self, ...nodes].map(({ peerId, coordinate }) => [peerId, coordinate]))
    this.#peers.keepOnly(new Set(coordinates.keys()))
    const askable = nodes.filter(({ peerId }) => this.#peers.mayAsk(peerId, nowMs))
    const waiting = vms.map(async ({ id, templateId }): Promise<VmToProbe<VmLatency>> => {
      const vm = this.#latencies.get(id)!
      const fit = askable.map((node) => ({ ...node, holdsTemplate: node.holds(templateId) }))
      const placed = vm.placed((node) => coordinates.get(node) ?? null, this.#random)
      return {
        vm,
        targets: await Promise.all(vm.clients.map((client) => this.#target(client, signal))),
        ask: shortlist(fit, placed, vm.measuredMs(), this.#random),
      }
    })
    return (await Promise.all(waiting)).toSorted((a, b) => a.vm.roundAtMs - b.vm.roundAtMs)
  }

  /** One for each VM, with the clients that it has now. */
  #keep(vms: readonly ProbedVm[]): void {
    const ids = new Set(vms.map(({ id }) => id))
    for (const id of this.#latencies.keys()) if (!ids.has(id)) this.#latencies.delete(id)
    for (const { id, clients } of vms) {
      const known = this.#latencies.get(id)
      if (known === undefined) this.#latencies.set(id, new VmLatency(clients))
      else known.serve(clients)
    }
  }

  async #target({ host, port }: VmClient, signal: AbortSignal): Promise<ProbeTarget | null> {
    const address = await this.#components.names.addressOf(host, signal)
    return address === null ? null : { address, port }
  }

  /** By target. */
  async #measure(targets: readonly ProbeTarget[]): Promise<Map<string, number | null>> {
    const { prober } = this.#components
    const measured = targets.map(async (target) => [targetKey(target), await prober.measure(target)] as const)
    return new Map(await Promise.all(measured))
  }

  async #ask(
    peer: PeerIdText,
    targets: readonly ProbeTarget[],
    signal: AbortSignal,
  ): Promise<[PeerIdText, Map<string, number | null>] | null> {
    try {
      const answer = await this.#components.ask(peer, targets, signal)
      if (answer.kind === 'refused') {
        this.#peers.failed(peer, answer.code, this.#now())
        return null
      }
      this.#peers.answered(peer)
      return [
        peer,
        new Map(targets.map((target, index) => [targetKey(target), answer.rttsMs[index] ?? null])),
      ]
    } catch (error) {
      // What isn't ours is that it took too long.
      const code = error instanceof DroverError ? error.code : 'PEER_UNREACHABLE'
      this.#peers.failed(peer, code, this.#now())
      return null
    }
  }

  #take(
    { vms }: Round<VmLatency>,
    own: Map<string, number | null>,
    answers: ReadonlyMap<PeerIdText, Map<string, number | null>>,
  ): void {
    const { peerId } = this.#components.self()
    const atMs = this.#now()
    for (const { vm, targets, ask } of vms) {
      const tripsOf = (measured: Map<string, number | null>): ClientRoundTripsMs =>
        targets.map((target) => (target === null ? null : (measured.get(targetKey(target)) ?? null)))
      const roundTripsMs = new Map([[peerId, tripsOf(own)]])
      for (const node of ask) {
        const answer = answers.get(node)
        if (answer !== undefined) roundTripsMs.set(node, tripsOf(answer))
      }
      vm.add(atMs, peerId, roundTripsMs)
    }
  }
}
