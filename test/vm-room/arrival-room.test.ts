/** An arrival between its reservation and its hand-over: its process takes what was promised, and is not counted twice. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { ownBytes } from '../../src/vm/admission.ts'
import { ownMemoryBytes } from '../../src/vm/node-memory.ts'
import { type Claim, Roster } from '../../src/vm/roster.ts'
import type { Vm } from '../../src/vm/vm.ts'
import { someVmSpec } from '../support/vm-spec.ts'
import { TestNode } from '../template/fixture.ts'

const MIB = 1024 ** 2
const TEMPLATE_BYTES = 128 * MIB
/** More than a Node.js that does nothing has: the process stands for a QEMU that its guest's pages fill. */
const PRIVATE_PAGES = (128 * MIB) / 4096
const PROMISED_BYTES = ownBytes(PRIVATE_PAGES)
const GROWTH_MIB = 300

let node: TestNode

beforeEach(async () => {
  node = await TestNode.start()
})
afterEach(() => node[Symbol.asyncDispose]())

const rosterOf = (memoryLimitBytes: number | null) =>
  new Roster({ templates: node.store }, { memoryLimitBytes })

function claim(): Claim {
  const id = randomUUID()
  const templateId = `bafkrei${'a'.repeat(52)}`
  const place = { id, templateId, privatePages: PRIVATE_PAGES, missingTemplateBytes: TEMPLATE_BYTES }
  return { ...place, name: `vm-${id}`, nics: [] }
}

/** A process that takes GROWTH_MIB of memory when it is told to. */
async function growing(): Promise<{ pid: number; grow: () => Promise<void> }> {
  const script = `process.stdin.once('data', () => {
    globalThis.held = Buffer.alloc(${GROWTH_MIB} * 1024 * 1024, 1)
    console.log('grown')
  })
  console.log('here')`
  const child: ChildProcess = spawn(process.execPath, ['-e', script], { stdio: ['pipe', 'pipe', 'inherit'] })
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  await once(child.stdout!, 'data')
  const grow = async () => {
    child.stdin!.write('\n')
    await once(child.stdout!, 'data')
  }
  return { pid: child.pid!, grow }
}

test('what the QEMU of an arrival takes comes out of its promise', async () => {
  const roster = rosterOf(null)
  const { pid } = await growing()
  using held = roster.claim(claim())
  expect(roster.memory()).toMatchObject({ reservedBytes: PROMISED_BYTES, committedBytes: TEMPLATE_BYTES })
  held.startedAs(pid)
  const { committedBytes, reservedBytes } = roster.memory()
  expect(ownMemoryBytes(pid)).toBeGreaterThan(5 * MIB)
  expect(reservedBytes).toBeLessThan(PROMISED_BYTES - 5 * MIB)
  expect(committedBytes + reservedBytes).toBe(TEMPLATE_BYTES + PROMISED_BYTES)
})

test('arrivals that fill the node to the last byte all keep their room, before and after they started', async () => {
  const roster = rosterOf(TEMPLATE_BYTES + 3 * PROMISED_BYTES)
  const held = [claim(), claim(), claim()].map((each) => roster.claim(each))
  expect(roster.memory().availableBytes).toBe(0)
  for (const each of held) {
    each.requireRoom()
    each.startedAs((await growing()).pid)
    for (const other of held) other.requireRoom()
  }
})

test('one that grows beyond its promise keeps its room where there is some, and loses it where there is none', async () => {
  const { pid, grow } = await growing()
  const [roomy, full] = [rosterOf(null), rosterOf(TEMPLATE_BYTES + PROMISED_BYTES)]
  const held = [roomy, full].map((roster) => roster.claim(claim()))
  for (const each of held) each.startedAs(pid)
  for (const each of held) each.requireRoom()
  await grow()
  held[0]!.requireRoom()
  expect(roomy.memory().reservedBytes).toBe(0)
  expect(() => held[1]!.requireRoom()).toThrow(
    expect.objectContaining({
      code: 'NOT_ENOUGH_MEMORY',
      details: expect.objectContaining({
        limitBytes: TEMPLATE_BYTES + PROMISED_BYTES,
        availableBytes: PROMISED_BYTES,
        // The process is idle, but not dead.
        missingBytes: expect.closeTo(ownMemoryBytes(pid) - PROMISED_BYTES, -Math.log10(2 * MIB)),
      }),
    }),
  )
  // After the hand-over, or the end of the arrival, the question makes no sense.
  for (const each of held) each[Symbol.dispose]()
  expect(() => held[0]!.requireRoom()).toThrow('given up')
})

test('no VM is called by the id of another one: whoever means that one would get it', () => {
  const roster = rosterOf(null)
  const here = claim()
  const state = { kind: 'stopped', reason: 'it was', doubt: null }
  roster.add({ record: { spec: someVmSpec(here), state } } as unknown as Vm)
  expect(() => roster.requireNameFree({ id: randomUUID(), name: here.id })).toThrow(
    expect.objectContaining({ code: 'NAME_TAKEN' }),
  )
  const arriving = { ...claim(), name: randomUUID() }
  using _held = roster.claim(arriving)
  expect(() => roster.requireNameFree({ id: arriving.name, name: 'web' })).toThrow(
    expect.objectContaining({ code: 'NAME_TAKEN' }),
  )
  expect(() => roster.requireNameFree({ id: here.id, name: here.id })).not.toThrow()
  expect(() => roster.requireNameFree({ id: randomUUID(), name: 'web' })).not.toThrow()
})
