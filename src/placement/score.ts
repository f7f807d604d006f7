import {
  ALL_MEMORY_MS_S,
  BLACKOUT_MS,
  DEFAULT_BANDWIDTH_BYTES_PER_SECOND,
  LINK_BUSY_MS,
  OVERLOAD_MS,
} from './calm.ts'
import type { CandidateNode, VmSituation } from './situation.ts'
import type { StayReason } from './verdict.ts'

/**
 * What a move takes, term by term, in bytes, ms and ms·s (calm.ts).
 *
 *     saved × lasts  -  (link: private + dirtied + share of template) - blackout - memory - load
 *
 *     100 ms × 180 s -  500 ms × (20 MiB + 1 MiB + 0) / 1.25 MB/s     - 200 - 40 - 0
 *     18,000         -  8,809                                         - 200 - 40 - 0  =  8,951 ms·s
 */
export interface MoveCost {
  bandwidthBytesPerSecond: number
  /** False: nothing was measured, the default was taken. */
  bandwidthMeasured: boolean
  privateBytes: number
  /** Pages that are written again while they are sent, and sent again. */
  dirtiedBytes: number
  /** 0 where the destination holds it. */
  templateBytes: number
  transferMs: number
  blackoutMs: number
  /** Taken at the destination: pages, room to grow, and the template where it's missing. */
  memoryBytes: number
  transferMsS: number
  /** Of all of it: planRound counts `templateShare` of this. */
  templateMsS: number
  blackoutMsS: number
  memoryMsS: number
  totalMsS: number
}

/** A guest that writes faster than this share of the link is slowed down until it doesn't (migration/rounds.ts). */
const MAX_DIRTY_SHARE = 0.8
/** Blackout of an idle clone on a link without delay (README, Benchmark), and of what is written in the round before. */
const IDLE_BLACKOUT_MS = 40
const LAST_ROUND_MS = 100
/** Without `--max-blackout` a guest is slowed down until its blackout is within this. */
const MAX_BLACKOUT_MS = 300

/** What moving the VM there would take, whether or not there is room for it. */
export function moveCost(vm: VmSituation, candidate: CandidateNode): MoveCost {
  const bandwidthBytesPerSecond = candidate.bandwidthBytesPerSecond ?? DEFAULT_BANDWIDTH_BYTES_PER_SECOND
  const templateBytes = candidate.templates.has(vm.templateId) ? 0 : vm.templateBytes
  const { privateBytes } = vm
  const dirtyShare = Math.min(vm.dirtyBytesPerSecond / bandwidthBytesPerSecond, MAX_DIRTY_SHARE)
  // Rounds: p + p·s + p·s² + … = p / (1 - s). A guest can't dirty more than it has written by then.
  const dirtiedBytes = (privateBytes * dirtyShare) / (1 - dirtyShare)
  const pagesMs = ((privateBytes + dirtiedBytes) / bandwidthBytesPerSecond) * 1000
  const templateMs = (templateBytes / bandwidthBytesPerSecond) * 1000
  const blackoutMs = Math.min(IDLE_BLACKOUT_MS + LAST_ROUND_MS * dirtyShare, MAX_BLACKOUT_MS)
  const memoryBytes = privateBytes + vm.headroomBytes + templateBytes

  const transferMsS = (LINK_BUSY_MS * pagesMs) / 1000
  const templateMsS = (LINK_BUSY_MS * templateMs) / 1000
  // Those who ask in a blackout wait for half of it on average.
  const blackoutMsS = ((blackoutMs / 2 + BLACKOUT_MS) * blackoutMs) / 1000
  const memoryMsS = ALL_MEMORY_MS_S * Math.min(1, memoryBytes / Math.max(candidate.availableBytes, 1))
  return {
    bandwidthBytesPerSecond,
    bandwidthMeasured: candidate.bandwidthBytesPerSecond !== null,
    privateBytes,
    dirtiedBytes,
    templateBytes,
    transferMs: pagesMs + templateMs,
    blackoutMs,
    memoryBytes,
    transferMsS,
    templateMsS,
    blackoutMsS,
    memoryMsS,
    totalMsS: transferMsS + templateMsS + blackoutMsS + memoryMsS,
  }
}

/** What waiting for CPUs of a node costs a VM there in `stableMs`, in ms·s. */
export function overloadMsS({ load }: Pick<CandidateNode, 'load'>, stableMs: number): number {
  return (OVERLOAD_MS * Math.max(0, load - 1) * stableMs) / 1000
}

/** Why a node can't have a VM at all, whatever that would gain; null: it can. */
export function unfitReason(
  vm: VmSituation,
  candidate: CandidateNode,
  { memoryBytes }: Pick<MoveCost, 'memoryBytes'>,
): StayReason | null {
  const { availableBytes } = candidate
  if (!candidate.takesVms) return { code: 'takes-no-vms' }
  if (candidate.unrunnable.has(vm.templateId)) return { code: 'cannot-run-it' }
  return memoryBytes > availableBytes ? { code: 'no-room', neededBytes: memoryBytes, availableBytes } : null
}
