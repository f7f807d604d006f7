import { setInterval } from 'node:timers/promises'
import { errorBody } from '../domain/errors.ts'
import type { TemplateId, TemplateRecord } from '../domain/template.ts'
import type { QemuBinary } from '../qemu/index.ts'
import type { Node } from './node.ts'
import { PreparedQemu } from './prepared-qemu.ts'
import type { Spare } from './roster.ts'
import { requireRunnable } from './runnable.ts'

/** How often it is looked after; a node on which nothing moved for two looks is idle. */
const TEND_INTERVAL_MS = 250
/** After one that could not be started, or was given up because memory is short: the next would go the same way. */
const RETRY_MS = 60_000

export interface PreparedQemusComponents {
  node: Node
  binary: QemuBinary
  /** Whether a VM is on its way to this node or from it: starting a QEMU would take its processor time. */
  isMoving: () => boolean
}

/**
 * QEMUs kept ready for VMs that may arrive, on the templates that were used
 * last. They are nobody's: whoever needs their memory gets it before anything
 * is refused (Roster). None has a record, so one that an agent leaves behind
 * when it dies is ended by the next as any orphan.
 */
export class PreparedQemus {
  readonly #components: PreparedQemusComponents
  readonly #count: number
  readonly #ready = new Map<PreparedQemu, Spare>()
  /** Those being ended. */
  readonly #leaving = new Set<Promise<void>>()
  readonly #stopping = new AbortController()
  #tending: Promise<void> = Promise.resolve()
  #retryAtMs = 0

  /** @param init.count - how many, of all templates together */
  constructor(components: PreparedQemusComponents, init: { count: number }) {
    this.#components = components
    this.#count = init.count
  }

  start(): void {
    this.#tending = this.#tend()
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the agent stops'))
    await this.#tending
    for (const { giveUp } of this.#ready.values()) giveUp()
    await Promise.all(this.#leaving)
  }

  /** One of a template, the taker's from here on; null where none is ready. Doesn't wait. */
  take(templateId: TemplateId): PreparedQemu | null {
    for (const [prepared, spare] of this.#ready) {
      if (prepared.templateId !== templateId || !prepared.isCurrent(this.#components.node.templates)) continue
      this.#ready.delete(prepared)
      this.#components.node.roster.removeSpare(spare)
      return prepared
    }
    return null
  }

  /** Memory is short, and VMs need it: all go, and no other is started for a minute. @returns whether there were any */
  giveUp(): boolean {
    this.#retryAtMs = performance.now() + RETRY_MS
    const spares = [...this.#ready.values()]
    for (const { giveUp } of spares) giveUp()
    return spares.length > 0
  }

  /** Those that are ready. */
  list(): { templateId: TemplateId; pid: number }[] {
    return [...this.#ready.keys()].map(({ templateId, pid }) => ({ templateId, pid }))
  }

  async #tend(): Promise<void> {
    const { signal } = this.#stopping
    let idleLooks = 0
    try {
      for await (const _ of setInterval(TEND_INTERVAL_MS, undefined, { signal, ref: false })) {
        idleLooks = this.#components.isMoving() ? 0 : idleLooks + 1
        await this.#look({ isIdle: idleLooks > 1 }, signal).catch(() => {
          // For want of a file descriptor, say: the next look comes soon.
        })
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
  }

  async #look({ isIdle }: { isIdle: boolean }, signal: AbortSignal): Promise<void> {
    this.#weed()
    if (isIdle && performance.now() >= this.#retryAtMs) await this.#startNext(signal)
  }

  /** Gives up those that nobody would be given any more. */
  #weed(): void {
    const { templates, roster } = this.#components.node
    const isShort = roster.memory().availableBytes === 0
    const wanted = this.#wanted()
    for (const [prepared, spare] of this.#ready) {
      const isWanted = removeOne(wanted, prepared.templateId)
      if (!isWanted || isShort || !prepared.isCurrent(templates)) spare.giveUp()
    }
  }

  /** The first that is missing, where a VM that arrives in it would find room too. */
  async #startNext(signal: AbortSignal): Promise<void> {
    const { node, binary } = this.#components
    const { templates, runDirs } = node
    const missing = this.#wanted()
    for (const { templateId } of this.#ready.keys()) removeOne(missing, templateId)
    const [templateId] = missing
    if (templateId === undefined || !node.roster.hasRoomForSpare(templateId)) return
    try {
      const prepared = await PreparedQemu.start({ binary, templates, runDirs }, templateId, { signal })
      this.#add(prepared)
      node.onEvent({ kind: 'qemu-prepared', templateId, pid: prepared.pid })
    } catch (error) {
      signal.throwIfAborted()
      this.#retryAtMs = performance.now() + RETRY_MS
      const { code, message } = errorBody(error)
      node.onEvent({ kind: 'qemu-not-prepared', templateId, code, reason: message })
    }
  }

  #add(prepared: PreparedQemu): void {
    const { roster } = this.#components.node
    const { templateId, pid } = prepared
    const giveUp = () => {
      if (!this.#ready.delete(prepared)) return
      roster.releaseSpare(spare)
      const leaving = prepared
        .quit()
        // What its run directory keeps, the next start removes.
        .catch(() => {})
        .finally(() => {
          roster.removeSpare(spare)
          this.#leaving.delete(leaving)
        })
      this.#leaving.add(leaving)
    }
    const spare: Spare = { templateId, pid, giveUp }
    this.#ready.set(prepared, spare)
    roster.addSpare(spare)
    void prepared.exited.then(giveUp)
  }

  /**
   * A template for each: the most recently used ones, one each, and again from
   * the first where there are fewer. VMs with a disk of their own don't move.
   */
  #wanted(): TemplateId[] {
    const { templates } = this.#components.node
    const candidates = templates.byUse().filter((template) => this.#isRunnable(template))
    const count = candidates.length === 0 ? 0 : this.#count
    return Array.from({ length: count }, (_, index) => candidates[index % candidates.length]!.id)
  }

  #isRunnable({ id, manifest: { machine } }: TemplateRecord): boolean {
    try {
      requireRunnable(this.#components.binary, machine, [])
      return this.#components.node.templates.files(id).disk === null
    } catch {
      return false
    }
  }
}

/** @returns whether it was there */
function removeOne(ids: TemplateId[], id: TemplateId): boolean {
  const at = ids.indexOf(id)
  if (at >= 0) ids.splice(at, 1)
  return at >= 0
}
