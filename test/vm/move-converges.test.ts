/** Guests that write faster than the link carries, and the limits that a user gives a move. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { expectCounting, inGuest, removeVm, runVm, TwoNodes } from '../support/two-nodes.ts'

const MAX_BLACKOUT_MS = 300

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '256M' })
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

/** A guest that rewrites 4 MiB at up to 50 MiB/s moves within limits. */
async function moveWriter(name: string, flags: readonly string[]): Promise<MigrationReport> {
  const { source, destination } = nodes
  await runVm(source, name)
  await inGuest(source, name, 'workload counter start')
  await inGuest(source, name, 'workload dirty 50 4')
  const { stdout } = await source.run(['migrate', name, '--to', destination.name, ...flags, '--json'])
  const report = JSON.parse(stdout) as MigrationReport
  const { outcome, error, durationsMs, rounds } = report
  console.log(JSON.stringify({ outcome, error, durationsMs, rounds }))
  expect(rounds.some(({ throttlePercent }) => throttlePercent > 0)).toBe(true)
  return report
}

test('a guest that writes faster than the link carries is slowed down until its blackout fits', async () => {
  const flags = ['--max-bandwidth', '8MB/s', '--max-blackout', String(MAX_BLACKOUT_MS)]
  const { outcome, durationsMs } = await moveWriter('slowed', flags)
  expect(outcome).toBe('completed')
  expect(durationsMs.blackout).toBeLessThanOrEqual(MAX_BLACKOUT_MS)
  await expectCounting(nodes.destination, 'slowed', 0)
  await removeVm(nodes.destination, 'slowed')
})

test('one whose limit can not be kept runs on where it is, at full speed', async () => {
  const { outcome, error } = await moveWriter('too-fast', [
    '--max-bandwidth',
    '8MB/s',
    '--max-blackout',
    '25',
  ])
  expect(outcome).toBe('failed')
  expect(error).toMatchObject({ code: 'BLACKOUT_TOO_LONG', details: { maxBlackoutMs: 25 } })
  const before = Number(await inGuest(nodes.source, 'too-fast', 'workload counter read'))
  await sleep(2000)
  const after = Number(await inGuest(nodes.source, 'too-fast', 'workload counter read'))
  // It counts ten times a second, and has a core for itself.
  expect(after - before).toBeGreaterThan(10)
  await removeVm(nodes.source, 'too-fast')
})
