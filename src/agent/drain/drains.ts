import { Turns } from '../../domain/turns.ts'
import { unlessAborted } from '../../domain/wait.ts'
import type { VmService } from '../../vm/index.ts'
import type { DrainProgress, DrainReply, NodeStateReply } from '../api-schema.ts'
import { AgentError } from '../errors.ts'
import type { EventHub } from '../event-hub.ts'
import type { NodeSwitches } from '../node-switches.ts'
import type { Relocations } from '../relocation/relocate.ts'
import { Drain } from './drain.ts'

export interface DrainsComponents {
  switches: NodeSwitches
  vms: VmService
  relocations: Relocations
  events: EventHub
  /** Tells the other nodes that this one takes no VMs, or takes them again. */
  announce: () => void
}

type OnProgress = (progress: DrainProgress) => void

interface Watcher {
  onProgress: OnProgress
}

interface UnderWay {
  result: Promise<DrainReply>
  stopping: AbortController
  watchers: Set<Watcher>
}

/**
 * Whether this node gives its VMs away, and takes none. That outlives the
 * agent; the moving does not, and whoever drains again goes on with it.
 */
export class Drains {
  readonly #components: DrainsComponents
  readonly #node: string
  /** Of two who drain it and make it ready at the same time the later one counts. */
  readonly #turns = new Turns()
  #underWay: UnderWay | null = null
  #isStopped = false

  /** @param init.node - this node's name */
  constructor(components: DrainsComponents, init: { node: string }) {
    this.#components = components
    this.#node = init.node
  }

  get isDraining(): boolean {
    return this.#components.switches.isOn('draining')
  }

  state(): NodeStateReply {
    return { node: this.#node, draining: this.isDraining }
  }

  /**
   * Takes no VM from now on, and moves away those that are here. A drain that is
   * under way is joined; it ends when nobody waits for it any more.
   *
   * @throws DiskFullError when nothing was begun; the signal's reason
   */
  async drain({ onProgress, signal }: { onProgress: OnProgress; signal: AbortSignal }): Promise<DrainReply> {
    const watcher = { onProgress }
    const { result, watchers, stopping } = await this.#turns.run(() => this.#join(watcher, signal), signal)
    try {
      return await unlessAborted(result, signal)
    } finally {
      watchers.delete(watcher)
      if (watchers.size === 0) stopping.abort(stopped('nobody waits for the drain any more'))
    }
  }

  /** Cancels the moves of a drain that is under way, and waits for their ends; the node still takes no VMs. */
  async stopDrain(): Promise<void> {
    this.#underWay?.stopping.abort(stopped('the drain was stopped'))
    await this.#underWay?.result
  }

  /** Takes VMs again; a drain that is under way is stopped. @throws DiskFullError */
  ready(): Promise<void> {
    return this.#turns.run(async () => {
      await this.stopDrain()
      await this.#switch(false)
    })
  }

  /** With the agent. */
  async stop(): Promise<void> {
    this.#isStopped = true
    await this.stopDrain()
  }

  async #join(watcher: Watcher, signal: AbortSignal): Promise<UnderWay> {
    await this.#switch(true)
    signal.throwIfAborted()
    // One that was stopped ends first.
    while (this.#underWay?.stopping.signal.aborted) await this.#underWay.result
    if (this.#isStopped) throw stopped('the agent stops')
    this.#underWay ??= this.#begin()
    this.#underWay.watchers.add(watcher)
    return this.#underWay
  }

  async #switch(isDraining: boolean): Promise<void> {
    const { switches, events, announce } = this.#components
    if (!(await switches.set('draining', isDraining))) return
    events.publish({ kind: isDraining ? 'node-draining' : 'node-ready' })
    announce()
  }

  #begin(): UnderWay {
    const { vms, relocations, events } = this.#components
    const watchers = new Set<Watcher>()
    const stopping = new AbortController()
    const onProgress = (progress: DrainProgress) => {
      for (const watcher of watchers) watcher.onProgress(progress)
    }
    const run = async (): Promise<DrainReply> => {
      try {
        const drain = new Drain({ vms, relocations, events, onProgress })
        const reply = await drain.run(this.#node, stopping.signal)
        events.publish({ kind: 'drain-ended', moved: reply.moved.length, notPlaced: reply.notPlaced.length })
        return reply
      } finally {
        this.#underWay = null
      }
    }
    const result = run()
    // Whoever asked may have left.
    result.catch(() => {})
    return { result, stopping, watchers }
  }
}

function stopped(why: string): AgentError {
  return new AgentError('DRAIN_STOPPED', `${why}: the VM stays here; \`drover drain\` goes on with it`)
}
