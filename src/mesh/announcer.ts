import type { NodeFacts, NodeMemory } from '../domain/node.ts'

/**
 * When a node announces itself. Every BEAT_MS in a small mesh; the more nodes
 * are known, the longer the beat, so that all of them together announce
 * MESH_RATE_PER_S times a second and no node's traffic grows with the mesh:
 * 15 s up to 30 nodes, 8 minutes with 1,000. What changes meanwhile is
 * announced at once, so a long beat only means that a node that vanished
 * without a farewell is remembered longer.
 */
export const BEAT_MS = 15_000
export const MESH_RATE_PER_S = 2
/** Nodes that start together drift apart. */
const JITTER = 0.1
/** Three lost beats, and some for the way. */
const VALID_BEATS = 3.5

/** A change seldom comes alone: a VM that starts says so three times. */
export const COALESCE_MS = 50
/** A node that changes all the time: what others allow each author, see announcement-intake.ts. */
export const MIN_INTERVAL_MS = 500
/** Memory that VMs take and give all the time is told at most so often between two beats. */
const DRIFTS_PER_BEAT = 4
const MEMORY_DRIFT = 0.1

export interface AnnouncerInit {
  beatMs?: number
  /** 0 to below 1. */
  random?: () => number
}

/** Says when; its owner says what. Pure: it has no clock and no timer. */
export class Announcer {
  readonly #beatMs: number
  readonly #random: () => number
  #dueAtMs = Number.NEGATIVE_INFINITY
  #lastAtMs = Number.NEGATIVE_INFINITY

  constructor({ beatMs = BEAT_MS, random = Math.random }: AnnouncerInit = {}) {
    this.#beatMs = beatMs
    this.#random = random
  }

  /** When the next announcement is due; the first one is at once. */
  get dueAtMs(): number {
    return this.#dueAtMs
  }

  /** @param nodesKnown - this one included */
  beatMs(nodesKnown: number): number {
    return Math.max(this.#beatMs, (nodesKnown / MESH_RATE_PER_S) * 1000)
  }

  /** Something that others choose by has changed. */
  changed(nowMs: number): void {
    this.#dueBy(Math.max(nowMs + COALESCE_MS, this.#lastAtMs + MIN_INTERVAL_MS))
  }

  /** Something has changed that changes all the time. */
  drifted(nowMs: number, nodesKnown: number): void {
    this.#dueBy(Math.max(nowMs, this.#lastAtMs + this.beatMs(nodesKnown) / DRIFTS_PER_BEAT))
  }

  /**
   * One is made now. Called before the facts are read: what changes while they are is due again.
   *
   * @returns how long it counts
   */
  begin(nowMs: number, nodesKnown: number): { validMs: number } {
    const beatMs = this.beatMs(nodesKnown)
    this.#lastAtMs = nowMs
    this.#dueAtMs = nowMs + beatMs * (1 - JITTER + 2 * JITTER * this.#random())
    return { validMs: Math.round(beatMs * VALID_BEATS) }
  }

  #dueBy(atMs: number): void {
    this.#dueAtMs = Math.min(this.#dueAtMs, atMs)
  }
}

/** How what was announced differs from what is: `changed` and `drifted` of the announcer. */
export function difference(announced: NodeFacts, now: NodeFacts): 'none' | 'drifted' | 'changed' {
  const told = ({ templates, vms, qemu, draining }: NodeFacts) =>
    JSON.stringify([
      templates.toSorted(),
      vms.map(({ id, name, state, epoch }) => [id, name, state, epoch]).toSorted(),
      qemu,
      draining,
    ])
  if ((announced.memory === null) !== (now.memory === null) || told(announced) !== told(now)) return 'changed'
  return announced.memory !== null && hasDrifted(announced.memory, now.memory!) ? 'drifted' : 'none'
}

function hasDrifted(announced: NodeMemory, now: NodeMemory): boolean {
  if (announced.limitBytes !== now.limitBytes) return true
  return (
    Math.abs(announced.availableBytes - now.availableBytes) >
    MEMORY_DRIFT * Math.max(announced.availableBytes, now.availableBytes)
  )
}
