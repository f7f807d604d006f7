import { setTimeout as sleep } from 'node:timers/promises'
import type { Workload } from './drover-move.ts'

/** A clone needs this long after it started until it is as quiet as it gets. */
const SETTLE_MS = 2_000

/** Nothing but the guest's kernel and its shell. */
const idle: Workload = {
  name: 'idle',
  start: () => sleep(SETTLE_MS),
  check: async (console) => {
    await console.run('true')
  },
}

/** 32 MiB of new data that doesn't compress, a counter, and a loop that rewrites four pages as fast as it can. */
const busy: Workload = {
  name: '32 MiB new data, hot loop',
  async start(console) {
    await console.run('workload data 32 1')
    await console.run('workload counter start')
    await console.run('workload hot start')
    await sleep(SETTLE_MS)
  },
  async check(console) {
    const before = Number(await console.run('workload counter read'))
    const answer = await console.run('workload check')
    if (answer.trim() !== 'ok') throw new Error(`the guest lost data: ${answer}`)
    if (Number(await console.run('workload counter read')) <= before)
      throw new Error('the counter stands still')
  },
}

export const WORKLOADS: readonly Workload[] = [idle, busy]
