import { readdirSync } from 'node:fs'
import { Dice } from './dice.ts'
import { FuzzFailure, type FuzzTarget, type FuzzTargetType } from './target.ts'

/** Between two of them somebody honest is served. */
const BATCH_INPUTS = 500
/** Before memory is measured: caches and compiled code are there by then. */
const WARM_UP_INPUTS = 300
/**
 * What a target may hold more after all its inputs than after the first ones.
 * Far above what the collector leaves lying about, and far below what 1 KB a
 * message would come to in a long run.
 */
const MAX_GROWTH_BYTES = 24 * 1024 ** 2
/** Sockets of the pool and what the honest check opens; a leak of one per input is hundreds. */
const MAX_MORE_FILES = 16
const MAX_MORE_TIMERS = 16

export interface TargetReport {
  target: string
  inputs: number
  /** By the code that they were refused with, `taken` among them. */
  outcomes: Map<string, number>
  inputsPerS: number
  /** Heap and memory beside it, after a collection. */
  bytesBefore: number
  bytesAfter: number
}

export interface TargetRun {
  seed: number
  inputs: number
  /** Of the first one. */
  from?: number
}

/**
 * Feeds one target.
 *
 * @throws FuzzFailure that says how to do the failing input alone
 */
export async function fuzzTarget(
  type: FuzzTargetType,
  { seed, inputs, from = 0 }: TargetRun,
): Promise<TargetReport> {
  const outcomes = new Map<string, number>()
  const stray = new StrayErrors()
  await using target = await type.start()
  await target.checkHonest()
  const startMs = performance.now()
  let before: Footprint | null = null
  for (let done = 0; done < inputs; done++) {
    const index = from + done
    const replay = `npm run fuzz -- --target ${type.name} --seed ${seed} --at ${index}`
    try {
      const outcome = await target.attack(Dice.of(seed, type.name, index))
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      stray.throwIfAny()
      if ((done + 1) % BATCH_INPUTS === 0 || done + 1 === inputs) await checkHonest(target, stray)
    } catch (cause) {
      throw new FuzzFailure(`${type.name}, input ${index} (again: ${replay}): ${(cause as Error).message}`, {
        cause,
      })
    }
    if (done + 1 === WARM_UP_INPUTS) before = footprint()
  }
  const seconds = (performance.now() - startMs) / 1000
  stray.stop()
  const after = footprint()
  before ??= after
  checkGrowth(type.name, before, after)
  return {
    target: type.name,
    inputs,
    outcomes,
    inputsPerS: inputs / seconds,
    bytesBefore: before.bytes,
    bytesAfter: after.bytes,
  }
}

async function checkHonest(target: FuzzTarget, stray: StrayErrors): Promise<void> {
  await target.checkHonest()
  // Rejections that nobody handles are told of after the microtasks.
  await new Promise((resolve) => setImmediate(resolve))
  stray.throwIfAny()
}

interface Footprint {
  bytes: number
  files: number
  timers: number
}

function footprint(): Footprint {
  // Twice: what finalizers free goes with the second one.
  for (let i = 0; i < 2; i++) globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  const timers = process.getActiveResourcesInfo().filter((resource) => resource === 'Timeout').length
  return { bytes: heapUsed + external, files: readdirSync('/proc/self/fd').length, timers }
}

function checkGrowth(name: string, before: Footprint, after: Footprint): void {
  const hasCollector = globalThis.gc !== undefined
  if (hasCollector && after.bytes - before.bytes > MAX_GROWTH_BYTES) {
    throw new FuzzFailure(`${name}: grew from ${before.bytes} to ${after.bytes} bytes`)
  }
  if (after.files - before.files > MAX_MORE_FILES) {
    throw new FuzzFailure(`${name}: ${before.files} open files before, ${after.files} after`)
  }
  if (after.timers - before.timers > MAX_MORE_TIMERS) {
    throw new FuzzFailure(`${name}: ${before.timers} timers before, ${after.timers} after`)
  }
}

/** What would have ended the agent: errors that nobody waits for. */
class StrayErrors {
  readonly #errors: unknown[] = []
  readonly #take = (error: unknown): void => void this.#errors.push(error)

  constructor() {
    process.on('unhandledRejection', this.#take)
    process.on('uncaughtException', this.#take)
  }

  throwIfAny(): void {
    if (this.#errors.length === 0) return
    this.stop()
    const [error] = this.#errors
    throw new FuzzFailure(`nobody waited for: ${error instanceof Error ? error.stack : error}`, {
      cause: error,
    })
  }

  stop(): void {
    process.off('unhandledRejection', this.#take)
    process.off('uncaughtException', this.#take)
  }
}
