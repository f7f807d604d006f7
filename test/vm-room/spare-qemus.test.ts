/** QEMUs kept ready count, and are given up before anybody is refused. Processes with memory of their own stand for them. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { ownBytes } from '../../src/vm/admission.ts'
import { ownMemoryBytes } from '../../src/vm/node-memory.ts'
import { type Claim, Roster, type Spare } from '../../src/vm/roster.ts'
import { TestNode } from '../template/fixture.ts'

const MIB = 1024 ** 2
const TEMPLATE_BYTES = 16 * MIB
const HELD_MIB = 64
const CLONE_BYTES = TEMPLATE_BYTES + ownBytes(0)
const templateId = `bafkrei${'a'.repeat(52)}`

let node: TestNode
beforeEach(async () => {
  node = await TestNode.start()
})
afterEach(() => node[Symbol.asyncDispose]())

const rosterOf = (memoryLimitBytes: number) => new Roster({ templates: node.store }, { memoryLimitBytes })

function claim(): Claim {
  const id = randomUUID()
  return { id, name: id, nics: [], templateId, privatePages: 0, missingTemplateBytes: TEMPLATE_BYTES }
}

/** A process that holds HELD_MIB until it is killed. */
async function holder(): Promise<ChildProcess> {
  const script = `globalThis.held = Buffer.alloc(${HELD_MIB} * 1024 * 1024, 1); setInterval(() => {}, 1000); console.log('here')`
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout!, 'data')
  return child
}

/** A process is never quite at rest between two looks. */
const expectAbout = (bytes: number, expectedBytes: number) =>
  expect(Math.abs(bytes - expectedBytes)).toBeLessThan(MIB)

/** A spare in the roster; when it is given up it stays for a while, as a process does. */
async function spareIn(roster: Roster, givenUp: number[]): Promise<{ spare: Spare; pid: number }> {
  const { pid } = await holder()
  const spare: Spare = {
    templateId,
    pid: pid!,
    giveUp: () => {
      givenUp.push(pid!)
      roster.releaseSpare(spare)
    },
  }
  roster.addSpare(spare)
  return { spare, pid: pid! }
}

test('a spare counts as committed until it is given up or taken', async () => {
  const roster = rosterOf(1024 * MIB)
  const { spare, pid } = await spareIn(roster, [])
  expectAbout(roster.memory().committedBytes, ownMemoryBytes(pid))
  expect(ownMemoryBytes(pid)).toBeGreaterThan(HELD_MIB * MIB)
  roster.releaseSpare(spare)
  expect(roster.memory().committedBytes).toBe(0)
  roster.removeSpare(spare)
  expect(roster.memory().committedBytes).toBe(0)
})

test('spares go one by one, only as many as are needed, and before anybody is refused', async () => {
  const givenUp: number[] = []
  // For a clone and one of the two spares, which have some 73 MiB each; without both of them for two clones.
  const roster = rosterOf(CLONE_BYTES + 110 * MIB)
  const first = await spareIn(roster, givenUp)
  const second = await spareIn(roster, givenUp)
  using _one = roster.claim(claim())
  expect(givenUp).toEqual([first.pid])
  using _two = roster.claim(claim())
  expect(givenUp).toEqual([first.pid, second.pid])
  expect(() => roster.claim(claim())).toThrow(expect.objectContaining({ code: 'NOT_ENOUGH_MEMORY' }))
})

test('an arrival that loses its room to a spare gets it', async () => {
  const givenUp: number[] = []
  const roster = rosterOf(CLONE_BYTES + 48 * MIB)
  const { pid } = await holder()
  using held = roster.claim(claim())
  held.startedAs(pid!)
  const spare = await spareIn(roster, givenUp)
  held.requireRoom()
  expect(givenUp).toEqual([spare.pid])
})

test('the arrival that takes one needs no more than one that takes none', async () => {
  const roster = rosterOf(CLONE_BYTES)
  const givenUp: number[] = []
  const { spare, pid } = await spareIn(roster, givenUp)
  expect(roster.hasRoomForSpare(templateId)).toBe(false)
  roster.removeSpare(spare)
  using _held = roster.claim(claim(), { pid })
  const { committedBytes, reservedBytes } = roster.memory()
  expectAbout(committedBytes, TEMPLATE_BYTES + ownMemoryBytes(pid))
  expectAbout(reservedBytes, Math.max(0, ownBytes(0) - ownMemoryBytes(pid)))
  expect(givenUp).toEqual([])
})
