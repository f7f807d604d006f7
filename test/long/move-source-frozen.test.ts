/** A source that falls silent, its connection still open: what was reserved for its VMs is free again by itself. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseDocuments, reservedBytes } from '../support/herd.ts'
import { inRounds, MoveUnderWay } from '../support/move-under-way.ts'
import { qemuPids } from '../support/node-state.ts'
import { expectCounting, inGuest, runVm, TwoNodes, vmNames } from '../support/two-nodes.ts'

const VMS = ['a', 'b']
/** From the last sign of life: a ping every 10 s, each with 30 to 60 s for its answer (src/mesh/node.ts). */
const EXPIRY_TIMEOUT_MS = 90_000

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '128M' })
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

test('memory for a VM in its rounds, and for one that waits for its turn', async () => {
  const { source, destination } = nodes
  for (const name of VMS) {
    await runVm(source, name)
    await inGuest(source, name, 'workload counter start')
    await inGuest(source, name, 'workload data 8 1')
  }
  const flags = ['--to', 'edge-2', '--parallel', '1', '--max-bandwidth', '4Mbit']
  const moving = await MoveUnderWay.start(source, [...VMS, ...flags], inRounds(100))
  const frozenMs = performance.now()
  process.kill(source.pid, 'SIGSTOP')
  try {
    // The one in its rounds has a QEMU, which has taken a part of its promise.
    expect(await reservedBytes(destination)).toBeGreaterThan(64 * 1024 ** 2)
    await expect
      .poll(() => reservedBytes(destination), { timeout: EXPIRY_TIMEOUT_MS, interval: 1_000 })
      .toBe(0)
    console.log(
      `reservations gone ${Math.round((performance.now() - frozenMs) / 1000)} s after the source fell silent`,
    )
    await expect.poll(() => qemuPids(destination), { timeout: 10_000 }).toEqual([])
    expect(await vmNames(destination)).toEqual([])
  } finally {
    process.kill(source.pid, 'SIGCONT')
  }
  const { code, stdout } = await moving.ended
  expect(code).toBe(1)
  // The other one had not left: it may be moved yet, as its turn comes.
  expect(parseDocuments(stdout).reports).toContainEqual(
    expect.objectContaining({ vm: 'a', outcome: 'failed' }),
  )
  await expectCounting(source, 'a', 1)
})
