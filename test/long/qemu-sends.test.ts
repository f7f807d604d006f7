import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { FailpointControl } from '../faults/failpoint-control.ts'
import { newerQemu } from '../support/newer-qemu.ts'
import { expectCounting, inGuest, met, move, runVm, TwoNodes } from '../support/two-nodes.ts'

/**
 * Hosts where the agent may not look into QEMU's memory: QEMU sends the guest
 * itself. Under TCG that is sound from 8.2 on.
 */

const TEST_TIMEOUT_MS = 180_000
const MIB = 1024 ** 2
const DATA_MIB = 12
const POLLING = { timeout: 20_000, interval: 100 }

let nodes: TwoNodes
let unusable: string | null
let failpoints: FailpointControl
let failpointDir: string
beforeAll(async () => {
  const { path, reason } = await newerQemu()
  unusable = reason
  if (path === null) return
  failpointDir = await mkdtemp(join(tmpdir(), 'drover-failpoints-'))
  failpoints = new FailpointControl(failpointDir)
  Object.assign(process.env, failpoints.environment())
  nodes = await TwoNodes.start({ memory: '256M', qemu: path, isMemoryClosed: true })
  await runVm(nodes.source, 'a')
  await inGuest(nodes.source, 'a', `workload data ${DATA_MIB} 1`)
  await inGuest(nodes.source, 'a', 'workload counter start')
}, TEST_TIMEOUT_MS)
afterAll(async () => {
  await nodes?.[Symbol.asyncDispose]()
  await rm(failpointDir, { recursive: true, force: true })
}, TEST_TIMEOUT_MS)
beforeEach(({ skip }) => skip(unusable !== null, unusable ?? ''))

let counted = 0
/** All of the guest is there, and goes on. */
async function expectWhole(agent: TwoNodes['source']): Promise<void> {
  counted = await expectCounting(agent, 'a', counted)
  expect((await inGuest(agent, 'a', 'workload check')).trim()).toBe('ok')
}

test('a move that is cancelled midway leaves the VM as it was', async () => {
  const { source, destination } = nodes
  const flags = ['--to', destination.name, '--max-bandwidth', '4MB/s', '--detach']
  const { migrationId } = await source.json<{ migrationId: string }>('migrate', 'a', ...flags)
  await expect
    .poll(
      async () => (await source.json<MigrationReport>('migration', 'show', migrationId)).bytes.pages,
      POLLING,
    )
    .toBeGreaterThan(2 * MIB)
  await source.json('migration', 'cancel', migrationId)
  await expect
    .poll(() => source.json('migration', 'show', migrationId), POLLING)
    .toMatchObject({ outcome: 'cancelled' })
  await expectWhole(source)
})

test('one whose blackout would be too long leaves it running', async () => {
  const { source, destination } = nodes
  const flags = ['--to', destination.name, '--max-blackout', '1', '--json']
  const { code, stdout } = await source.run(['migrate', 'a', ...flags])
  expect(code).toBe(1)
  expect((JSON.parse(stdout) as MigrationReport).error).toMatchObject({ code: 'BLACKOUT_TOO_LONG' })
  await expectWhole(source)
})

test.each(['stopped', 'state-saved'])(
  'after an agent that is killed when it has %s it goes on',
  async (boundary) => {
    const { source, destination } = nodes
    await failpoints.arm({ side: 'source', boundary })
    const moving = source.run(['migrate', 'a', '--to', destination.name])
    expect(await failpoints.hit(AbortSignal.timeout(20_000))).toBe(true)
    await source.stop('SIGKILL')
    await failpoints.release()
    expect((await moving).code).toBe(1)
    await source.start()
    await met(source, destination)
    await expectWhole(source)
  },
)

test('when the destination is killed before it has all, the VM goes on at the source', async () => {
  const { source, destination } = nodes
  await failpoints.arm({ side: 'destination', boundary: 'finish-heard' })
  const moving = source.run(['migrate', 'a', '--to', destination.name])
  expect(await failpoints.hit(AbortSignal.timeout(20_000))).toBe(true)
  await destination.stop('SIGKILL')
  await failpoints.release()
  expect((await moving).code).toBe(1)
  await expectWhole(source)
  await destination.start()
  await met(source, destination)
})

test('a VM whose memory can not be read moves there and back, with its own pages and no others', async () => {
  const { source, destination } = nodes
  const there = await move(source, 'a', destination)
  expect(there.destination).toBeNull()
  expect(there.bytes.wire).toBeGreaterThan(DATA_MIB * MIB)
  expect(there.bytes.wire).toBeLessThan((DATA_MIB + 4) * MIB)
  await expectWhole(destination)
  await move(destination, 'a', source)
  await expectWhole(source)
})
