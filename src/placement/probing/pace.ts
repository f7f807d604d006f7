import type { PeerIdText } from '../../domain/vm.ts'
import { DEFAULT_CALM } from '../calm.ts'
import type { LatencySample } from '../latency.ts'

/** Where something has changed it is held against enough samples within 30 s. */
const FAST_MS = 3_000
/** Where nothing does, a change is seen within this. */
const SLOW_MS = 8_000
/** Rounds that agree where a VM belongs, or that nobody answers: what they are to decide was decided then. */
export const STEADY_ROUNDS = 8
/** Peers probe two targets a second for one node: see serve.ts. */
const PER_TARGET_MS = 500
/** Nodes that start together drift apart. */
const JITTER = 0.15

/**
 * From one round to the next, in ms.
 *
 * @param targets - that one peer was asked for in this round, at most
 * @param random - from 0 to below 1
 */
export function roundDelayMs({
  isSteady,
  targets,
  random,
}: {
  isSteady: boolean
  targets: number
  random: () => number
}): number {
  const baseMs = Math.max(isSteady ? SLOW_MS : FAST_MS, targets * PER_TARGET_MS)
  // Not below what the peers' limit allows.
  return baseMs * (1 + JITTER * random())
}

/** Whether a VM's last samples agree which node is the best for its clients. */
export function isSteady(samples: readonly LatencySample[], here: PeerIdText): boolean {
  const last = samples.slice(-STEADY_ROUNDS)
  const best = last.map((sample) => bestNode(sample, here))
  return last.length === STEADY_ROUNDS && best.every((node) => node === best[0])
}

/** The nearest node, if it is so much nearer than `here` that it isn't noise. */
function bestNode({ latencyMs }: LatencySample, here: PeerIdText): PeerIdText {
  const hereMs = latencyMs.get(here) ?? Infinity
  const neededMs = Math.max(DEFAULT_CALM.minSavedMs, DEFAULT_CALM.minSavedShare * hereMs)
  let best = { node: here, ms: hereMs - neededMs }
  for (const [node, ms] of latencyMs) if (ms <= best.ms) best = { node, ms }
  return best.node
}
