import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { inGuest, met, move, removeVm, runVm, showVm, TwoNodes } from '../support/two-nodes.ts'

/** Nothing twice: a VM that goes A → B → A sends what it changed at B. */

const TEST_TIMEOUT_MS = 180_000
const DATA_MIB = 12
const CHANGED_MIB = 2
/** What a guest writes by itself between two moves; 1 MiB where the machine is busy. */
const OWN_MIB = 2
const MIB = 1024 ** 2

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '256M' })
}, TEST_TIMEOUT_MS)
afterAll(() => nodes[Symbol.asyncDispose](), TEST_TIMEOUT_MS)

/** A VM with data of its own, gone from the source. Returns its id. */
async function away(name: string): Promise<string> {
  const { source, destination } = nodes
  await runVm(source, name)
  const { id } = await showVm(source, name)
  await inGuest(source, name, `workload data ${DATA_MIB} 1`)
  const report = await move(source, name, destination)
  expect(report.pages.reference).toBe(0)
  expect(report.bytes.wire).toBeGreaterThan(DATA_MIB * MIB)
  return id
}

async function back(name: string): Promise<MigrationReport> {
  const report = await move(nodes.destination, name, nodes.source)
  expect((await inGuest(nodes.source, name, 'workload check')).trim()).toBe('ok')
  return report
}

test(
  'what the VM left behind is not sent again, also after the agents were replaced',
  async () => {
    await away('a')
    for (const agent of [nodes.source, nodes.destination]) {
      await agent.stop()
      await agent.start()
    }
    await met(nodes.source, nodes.destination)
    await inGuest(nodes.destination, 'a', `workload data ${CHANGED_MIB} 2`)
    const report = await back('a')
    expect(report.bytes.wire).toBeLessThan((CHANGED_MIB + OWN_MIB) * MIB)
    expect(report.pages.reference).toBeGreaterThan((DATA_MIB * MIB) / 4096)
    // Nothing is kept of a VM that is here, nor known of one that is gone.
    expect(await readdir(join(nodes.source.dataDir, 'kept'))).toEqual([])
    expect(await readdir(join(nodes.destination.dataDir, 'arrived'))).toEqual([])
    await removeVm(nodes.source, 'a')
  },
  TEST_TIMEOUT_MS,
)

test(
  'a VM that changes nothing comes back for a few KiB, again and again',
  async () => {
    await away('b')
    expect((await back('b')).bytes.wire).toBeLessThan(0.5 * MIB)
    const again = await move(nodes.source, 'b', nodes.destination)
    expect(again.bytes.wire).toBeLessThan(0.5 * MIB)
    expect((await back('b')).bytes.wire).toBeLessThan(0.5 * MIB)
    await removeVm(nodes.source, 'b')
  },
  TEST_TIMEOUT_MS,
)

test.each<[string, (path: string) => Promise<void>]>([
  ['were damaged', async (path) => writeFile(path, flipped(await readFile(path)))],
  ['were cut off', async (path) => writeFile(path, (await readFile(path)).subarray(0, -8192))],
])(
  'when the pages that were kept %s, all of the VM comes',
  async (_, damage) => {
    const id = await away('c')
    await damage(join(nodes.source.dataDir, 'kept', id))
    const report = await back('c')
    expect(report.bytes.wire).toBeGreaterThan(DATA_MIB * MIB)
    expect(report.pages.reference).toBe(0)
    await removeVm(nodes.source, 'c')
  },
  TEST_TIMEOUT_MS,
)

test(
  'when the table of the arrival was damaged, all of the VM goes',
  async () => {
    const id = await away('d')
    const table = join(nodes.destination.dataDir, 'arrived', id)
    await writeFile(table, flipped(await readFile(table)))
    const report = await back('d')
    expect(report.bytes.wire).toBeGreaterThan(DATA_MIB * MIB)
    await removeVm(nodes.source, 'd')
  },
  TEST_TIMEOUT_MS,
)

function flipped(bytes: Buffer): Buffer {
  bytes[bytes.length - 5000]! ^= 1
  return bytes
}
