import { setTimeout as sleep } from 'node:timers/promises'
import type { GuestConsole } from '../support/guest-console.ts'

export interface Workload {
  /** Gets the guest to work; returns when it does. */
  start(console: GuestConsole): Promise<void>
  /** Throws when the work did not survive. */
  check(console: GuestConsole): Promise<void>
}

/** A clone needs this long after it started until it is as quiet as it gets. */
const SETTLE_MS = 2_000
/** The guest's own work under TCG: 1 GiB of new data takes minutes. */
const WORK_TIMEOUT_MS = 600_000

/** More than a guest can. */
const MAX_REWRITE_MIB_PER_S = 1000

/** Nothing but the guest's kernel and its shell. */
export const IDLE: Workload = {
  start: () => sleep(SETTLE_MS),
  check: async (console) => {
    await console.run('true')
  },
}

/** New data that doesn't compress, a counter, and a loop that rewrites four pages as fast as it can. */
export function busy(dataMib: number): Workload {
  return {
    async start(console) {
      await console.run(`workload data ${dataMib} 1`, { timeoutMs: WORK_TIMEOUT_MS })
      await console.run('workload counter start')
      await console.run('workload hot start')
      await sleep(SETTLE_MS)
    },
    async check(console) {
      const before = Number(await console.run('workload counter read'))
      await dataIsThere(console)
      if (Number(await console.run('workload counter read')) <= before)
        throw new Error('the counter stands still')
    },
  }
}

/** New data that doesn't compress, and then nothing. */
export function newData(mib: number): Workload {
  return {
    async start(console) {
      await console.run(`workload data ${mib} 1`, { timeoutMs: WORK_TIMEOUT_MS })
      await sleep(SETTLE_MS)
    },
    check: dataIsThere,
  }
}

/** Rewrites so much with new random data, again and again, as fast as the guest can: a few ten MiB/s under TCG. */
export function rewriting(spanMib: number): Workload {
  return {
    async start(console) {
      await console.run(`workload dirty ${MAX_REWRITE_MIB_PER_S} ${spanMib}`)
      await sleep(SETTLE_MS)
    },
    async check(console) {
      await console.run('workload dirty stop')
      await dataIsThere(console)
    },
  }
}

/** New data that compresses as text does. */
export function newWords(mib: number): Workload {
  return {
    async start(console) {
      await console.run(`workload words ${mib} 1`, { timeoutMs: WORK_TIMEOUT_MS })
      await sleep(SETTLE_MS)
    },
    check: dataIsThere,
  }
}

/** @throws when what the guest has written isn't what it reads now */
export async function dataIsThere(console: GuestConsole): Promise<void> {
  const answer = await console.run('workload check', { timeoutMs: WORK_TIMEOUT_MS })
  if (answer.trim() !== 'ok') throw new Error(`the guest lost data: ${answer}`)
}
