import { afterAll, beforeAll, expect, test } from 'vitest'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { inGuest, move, removeVm, runVm, TwoNodes } from '../support/two-nodes.ts'

/** Nothing twice: what one clone has brought, the next one needn't bring again. */

const TEST_TIMEOUT_MS = 180_000
/** Copies of one program, each shifted by a byte more: no page of one is a page of another, or of the template. */
const COPIES = 8

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '256M' })
}, TEST_TIMEOUT_MS)
afterAll(() => nodes[Symbol.asyncDispose](), TEST_TIMEOUT_MS)

/** A VM that has the program's copies; the second one of a pair has them elsewhere in its memory. */
async function runWithPrograms(name: string): Promise<void> {
  await runVm(nodes.source, name)
  if (name.endsWith('2')) await inGuest(nodes.source, name, 'dd if=/dev/zero of=/run/elsewhere bs=1M count=3')
  const copy = '(head -c $i /dev/zero; cat /bin/busybox) > /run/program-$i'
  await inGuest(nodes.source, name, `for i in $(seq ${COPIES}); do ${copy}; done`)
}

const sums = (agent: typeof nodes.source, name: string) =>
  inGuest(agent, name, 'cat /run/program-* | sha256sum')

async function away(name: string): Promise<MigrationReport> {
  const before = await sums(nodes.source, name)
  const report = await move(nodes.source, name, nodes.destination)
  expect(await sums(nodes.destination, name)).toBe(before)
  return report
}

const dear = ({ pages }: MigrationReport) => pages.zstd + pages.raw

test(
  'pages that a sibling has brought go as references, wherever they lie',
  async () => {
    await runWithPrograms('a1')
    await runWithPrograms('a2')
    const first = await away('a1')
    expect(first.pages.reference).toBe(0)
    expect(dear(first)).toBeGreaterThan(1000)
    const second = await away('a2')
    expect(second.pages.reference).toBeGreaterThan(0.9 * dear(first))
    expect(second.bytes.wire).toBeLessThan(0.2 * first.bytes.wire)
    for (const name of ['a1', 'a2']) await removeVm(nodes.destination, name)
  },
  TEST_TIMEOUT_MS,
)

test(
  'pages that the sibling has changed since are lost, and come as content',
  async () => {
    await runWithPrograms('b1')
    await runWithPrograms('b2')
    const first = await away('b1')
    const overwrite = 'dd if=/dev/urandom of=/run/program-$i conv=notrunc bs=1M count=1'
    await inGuest(nodes.destination, 'b1', `for i in $(seq ${COPIES}); do ${overwrite}; done`)
    const second = await away('b2')
    // Told as references first, and then as what they are.
    expect(second.pages.reference).toBeGreaterThan(0.9 * dear(first))
    expect(dear(second)).toBeGreaterThan(COPIES * 200)
    expect(second.rounds.length).toBeGreaterThan(2)
    for (const name of ['b1', 'b2']) await removeVm(nodes.destination, name)
  },
  TEST_TIMEOUT_MS,
)

test(
  'a sibling that is gone keeps nobody',
  async () => {
    await runWithPrograms('c1')
    await runWithPrograms('c2')
    const first = await away('c1')
    await removeVm(nodes.destination, 'c1')
    expect(dear(await away('c2'))).toBeGreaterThan(0.9 * dear(first))
    await removeVm(nodes.destination, 'c2')
  },
  TEST_TIMEOUT_MS,
)
