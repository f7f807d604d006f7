import { setInterval } from 'node:timers/promises'
import { steadyNowMs } from '../../domain/clock.ts'
import { availableDiskBytes } from '../../domain/disk-space.ts'
import { errorBody } from '../../domain/errors.ts'
import { Repeating } from '../../domain/repeating.ts'
import type { TemplateId } from '../../domain/template.ts'
import type { Mesh } from '../../mesh/index.ts'
import { Pace } from '../../migration/index.ts'
import { afterFailure, type BackOffs, backOffRemainingMs } from '../../placement/index.ts'
import type { TemplateStore } from '../../template/index.ts'
import type { EventHub } from '../event-hub.ts'
import type { Hypervisor } from '../parts.ts'
import { pullTemplate } from '../pull-template.ts'
import { type Demand, isSending, prefetchableBytes, templatesInDemand } from './demand.ts'

/** VMs come and go in minutes. */
const LOOK_MS = 10_000
const WAIT_PER_NODE_MS = 2_000
const MIN_WAIT_MS = 10_000
/** 17 Mbit/s: what a link has left for work that nobody waits for. */
const BYTES_PER_SECOND = 2 * 1024 ** 2
/** How soon it gives way to a move. */
const GIVE_WAY_MS = 200
const HOUR_MS = 3_600_000

export interface PrefetchComponents extends Pick<Hypervisor, 'binary' | 'migrations'> {
  mesh: Mesh
  templates: TemplateStore
  events: EventHub
  /** A node that gives its VMs away needs no templates. */
  isDraining: () => boolean
  /** From 0 to below 1. */
  random?: () => number
}

export interface PrefetchInit {
  /** What may come in an hour; 0: nothing. */
  limitBytes: number
  templateLimitBytes: number | null
  /** Default LOOK_MS. */
  lookMs?: number
  /** The longest wait before a fetch, by the nodes of the mesh; default `longestWaitMs`. */
  waitMs?: (nodes: number) => number
}

export interface PrefetchStatus {
  limitBytesPerHour: number
  spentBytes: number
}

/** What kept a fetch from its end, beside what kept the fetch itself. */
class TooLarge extends Error {}
class GivesWay extends Error {}

/**
 * Brings templates that VMs of other nodes run from to this one, before a VM
 * comes with one: those of most VMs first, one at a time, while no VM is on its
 * way to or from here. What was removed here isn't brought back.
 */
export class TemplatePrefetch {
  readonly #components: PrefetchComponents
  readonly #init: PrefetchInit
  readonly #random: () => number
  readonly #looking = new Repeating()
  readonly #spent: { atMs: number; bytes: number }[] = []
  /** Of those that were too large when they were looked at; in bytes on disk. */
  readonly #sizes = new Map<TemplateId, number>()
  /** Seen here since the start: those among them that are gone were removed. */
  readonly #everHere = new Set<TemplateId>()
  #backOffs: BackOffs = new Map()
  #dueAtMs: number | null = null

  constructor(components: PrefetchComponents, init: PrefetchInit) {
    this.#components = components
    this.#init = init
    this.#random = components.random ?? Math.random
  }

  start(): void {
    const { limitBytes, lookMs = LOOK_MS } = this.#init
    if (limitBytes === 0) return
    this.#looking.start(
      () => lookMs * (0.5 + this.#random()),
      (signal) => this.#step(signal),
    )
  }

  async stop(): Promise<void> {
    await this.#looking.stop()
  }

  status(): PrefetchStatus {
    const sinceMs = steadyNowMs() - HOUR_MS
    const lastHour = this.#spent.filter(({ atMs }) => atMs > sinceMs)
    this.#spent.splice(0, this.#spent.length - lastHour.length)
    const spentBytes = lastHour.reduce((sum, { bytes }) => sum + bytes, 0)
    return { limitBytesPerHour: this.#init.limitBytes, spentBytes }
  }

  async #step(signal: AbortSignal): Promise<void> {
    const { mesh, migrations, isDraining } = this.#components
    const allowedBytes = await this.#allowedBytes()
    const next = isDraining() || migrations.isMoving ? undefined : this.#next(allowedBytes)
    if (next === undefined) {
      this.#dueAtMs = null
      return
    }
    const nowMs = performance.now()
    const { waitMs = longestWaitMs } = this.#init
    this.#dueAtMs ??= nowMs + this.#random() * waitMs(mesh.directory().length)
    if (nowMs < this.#dueAtMs) return
    this.#dueAtMs = null
    await this.#fetch(next, allowedBytes, signal)
  }

  #next(allowedBytes: number): Demand | undefined {
    const { mesh, templates, binary } = this.#components
    for (const { id } of templates.list()) this.#everHere.add(id)
    const nodes = mesh.directory()
    const busy = new Set(nodes.filter(isSending).map(({ peerId }) => peerId))
    return templatesInDemand(nodes, binary).find(
      ({ id }) =>
        !this.#everHere.has(id) &&
        backOffRemainingMs(this.#backOffs, id, steadyNowMs()) === 0 &&
        (this.#sizes.get(id) ?? 0) <= allowedBytes &&
        mesh.announcersOf(id).some((peerId) => !busy.has(peerId)),
    )
  }

  async #allowedBytes(): Promise<number> {
    const { templates } = this.#components
    const { limitBytesPerHour, spentBytes } = this.status()
    const { templateLimitBytes } = this.#init
    return prefetchableBytes({
      limitBytes: limitBytesPerHour,
      spentBytes,
      diskAvailableBytes: availableDiskBytes(templates.dir),
      templateLimitBytes,
      templateBytes: templateLimitBytes === null ? 0 : await templates.diskBytes(),
    })
  }

  async #fetch({ id, vms }: Demand, allowedBytes: number, stopping: AbortSignal): Promise<void> {
    const { mesh, templates, events } = this.#components
    events.publish({ kind: 'template-prefetch-started', id, vms })
    using idle = this.#whileIdle()
    const signal = AbortSignal.any([stopping, idle.signal])
    const pace = new Pace(BYTES_PER_SECOND)
    let pacedBytes = 0
    const spend = (bytes: number) => this.#spent.push({ atMs: steadyNowMs(), bytes })
    try {
      const { from, bytesReceived, bytesSent } = await pullTemplate(
        { mesh, templates, events },
        {
          template: id,
          from: null,
          name: null,
          progress: () => {},
          admit: (sizeBytes) => this.#admit(id, sizeBytes, allowedBytes),
          pace: (bytes, fetching) => {
            pacedBytes += bytes
            spend(bytes)
            // A move that wants it, too, goes on with the fetch without us, and at its own pace.
            return signal.aborted ? Promise.resolve() : pace.came(bytes, AbortSignal.any([fetching, signal]))
          },
          signal,
        },
      )
      // The last answers keep nobody waiting.
      spend(Math.max(0, bytesReceived + bytesSent - pacedBytes))
      events.publish({ kind: 'template-prefetched', id, vms, from, bytesReceived })
    } catch (error) {
      if (stopping.aborted) throw error
      this.#failed(id, idle.signal.aborted ? idle.signal.reason : error)
    }
  }

  #admit(id: TemplateId, sizeBytes: number, allowedBytes: number): void {
    if (sizeBytes <= allowedBytes) return
    this.#sizes.set(id, sizeBytes)
    throw new TooLarge(`${sizeBytes} bytes, of ${allowedBytes} that may come now`)
  }

  #failed(id: TemplateId, error: unknown): void {
    const reason =
      error instanceof GivesWay
        ? 'gives-way'
        : error instanceof TooLarge
          ? 'too-large'
          : errorBody(error).code
    this.#components.events.publish({ kind: 'template-prefetch-ended', id, reason })
    if (error instanceof GivesWay || error instanceof TooLarge) return
    this.#backOffs = afterFailure(this.#backOffs, [id], steadyNowMs(), this.#random)
  }

  /** A signal that aborts when a VM sets out, from here or to here. */
  #whileIdle(): Disposable & { signal: AbortSignal } {
    const { migrations } = this.#components
    const busy = new AbortController()
    const ended = new AbortController()
    const watch = async () => {
      for await (const _ of setInterval(GIVE_WAY_MS, undefined, { signal: ended.signal, ref: false })) {
        if (migrations.isMoving) busy.abort(new GivesWay('a VM is on its way'))
      }
    }
    watch().catch(() => {
      // Ends at its signal alone.
    })
    return { signal: busy.signal, [Symbol.dispose]: () => ended.abort() }
  }
}

/**
 * Nodes that see the same demand at the same moment, as they joined together,
 * begin at random within so long: the first of them serve the later ones, and no
 * holder is asked by all at once.
 */
function longestWaitMs(nodes: number): number {
  return Math.max(MIN_WAIT_MS, WAIT_PER_NODE_MS * nodes)
}
