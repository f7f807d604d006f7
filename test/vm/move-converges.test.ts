/** Guests that write faster than the link carries, and the limits that a user gives a move. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { expectCounting, inGuest, removeVm, runVm, TwoNodes } from '../support/two-nodes.ts'

const MAX_BLACKOUT_MS = 300

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '256M' })
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

test.each([
  { name: 'slowed', bandwidth: '2MB/s' },
  { name: 'too-fast', bandwidth: '100kB/s' },
])(
  'a guest that writes faster than $bandwidth keeps its blackout, or stays at full speed',
  async ({ name, bandwidth }) => {
    const { source, destination } = nodes
    await runVm(source, name)
    await inGuest(source, name, 'workload counter start')
    await inGuest(source, name, 'workload dirty 50 4')
    const flags = ['--max-bandwidth', bandwidth, '--max-blackout', String(MAX_BLACKOUT_MS), '--json']
    const { stdout } = await source.run(['migrate', name, '--to', destination.name, ...flags])
    const { outcome, error, durationsMs, rounds, bytes } = JSON.parse(stdout) as MigrationReport
    console.log(JSON.stringify({ outcome, error, durationsMs, bytes, rounds }))
    expect(rounds.some(({ throttlePercent }) => throttlePercent > 0)).toBe(true)
    const completed = outcome === 'completed'
    if (completed) expect(durationsMs.blackout).toBeLessThanOrEqual(MAX_BLACKOUT_MS)
    else expect(error).toMatchObject({ code: 'BLACKOUT_TOO_LONG' })
    await expectCounting(completed ? destination : source, name, 0)
    await removeVm(completed ? destination : source, name)
  },
)
