import { open } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { findGuestMapping } from '../../src/memory/mapping.ts'
import type { DepartingVm, MovableVms } from '../../src/migration/index.ts'
import { MigrationRig } from './migration-rig.ts'

const CHUNK_BYTES = 4 * 1024 * 1024

/** Compares all guest RAM of two processes; returns the indices of pages that differ. */
async function differingPages(a: GuestProcess, b: GuestProcess): Promise<number[]> {
  await using left = await open(`/proc/${a.pid}/mem`, 'r')
  await using right = await open(`/proc/${b.pid}/mem`, 'r')
  const leftMapping = await findGuestMapping(a.pid, a.ramPath, a.memoryBytes)
  const rightMapping = await findGuestMapping(b.pid, b.ramPath, b.memoryBytes)
  const [leftChunk, rightChunk] = [Buffer.alloc(CHUNK_BYTES), Buffer.alloc(CHUNK_BYTES)]
  const differing: number[] = []
  for (let offset = 0; offset < a.memoryBytes; offset += CHUNK_BYTES) {
    await left.read(leftChunk, 0, CHUNK_BYTES, leftMapping.addressBytes + offset)
    await right.read(rightChunk, 0, CHUNK_BYTES, rightMapping.addressBytes + offset)
    if (leftChunk.equals(rightChunk)) continue
    for (let page = 0; page < CHUNK_BYTES / PAGE_BYTES; page++) {
      const range = [page * PAGE_BYTES, (page + 1) * PAGE_BYTES] as const
      if (!leftChunk.subarray(...range).equals(rightChunk.subarray(...range)))
        differing.push(offset / PAGE_BYTES + page)
    }
  }
  return differing
}

interface GuestProcess {
  pid: number
  ramPath: string
  memoryBytes: number
}

/**
 * Keeps both ends as they are at the hand-over: the source's QEMU stays,
 * stopped, until `leave`; the destination's isn't resumed until `resume`.
 */
function holdAtHandover(): {
  wrap: (vms: MovableVms) => MovableVms
  source: () => GuestProcess
  resume: () => Promise<void>
  leave: () => Promise<void>
} {
  let departing: DepartingVm | undefined
  let leave = async () => {}
  let resume = async () => {}
  const wrap = (vms: MovableVms): MovableVms => ({
    has: (id) => vms.has(id),
    isRunning: (id) => vms.isRunning(id),
    inDoubt: () => vms.inDoubt(),
    movable: (name) => vms.movable(name),
    reserveHerd: (places) => vms.reserveHerd(places),
    depart: async (name, migrationId) => {
      const vm = await vms.depart(name, migrationId)
      departing = vm
      leave = vm.leave.bind(vm)
      vm.leave = async () => {}
      return vm
    },
    reserve: async (request) => {
      const arriving = await vms.reserve(request)
      resume = arriving.resume.bind(arriving)
      arriving.resume = async () => {}
      return arriving
    },
  })
  return {
    wrap,
    source: () => ({
      pid: departing!.process.pid,
      ramPath: departing!.ramPath,
      memoryBytes: departing!.machine.memoryBytes,
    }),
    resume: () => resume(),
    leave: () => leave(),
  }
}

test('with a workload running during the move, not one page of guest RAM differs', async () => {
  const hold = holdAtHandover()
  await using rig = await MigrationRig.start({ wrap: hold.wrap })
  const { a, b } = rig
  const signal = AbortSignal.timeout(60_000)
  await a.node.vms.run({ name: 'w', templateRef: 'base', nics: [] }, { signal })
  {
    await using console = await a.node.console('w')
    await console.run('workload data 8 1')
    await console.run('workload text 4 2')
    await console.run('workload counter start')
    await console.run('workload dirty 4 8')
    await console.run('workload hot start')
    // Content that was there when the template was made goes back to what it was: freed, zeroed or rewritten.
    await console.run('workload drop 2')
    await sleep(1_000)
  }

  const report = await rig.move('w', a, 'b')
  expect(report).toMatchObject({ outcome: 'completed', digest: 'verified', error: null })
  expect(report.rounds.length).toBeGreaterThan(1)
  expect(report.pages.sent).toBeGreaterThan(2_000)

  const arrived = await b.node.vms.show('w')
  const source = hold.source()
  const destination = {
    pid: arrived.pid!,
    ramPath: b.node.templates.files(report.templateId).ram,
    memoryBytes: source.memoryBytes,
  }
  expect(await differingPages(source, destination)).toEqual([])

  // The comparison can fail: the guest goes on at the destination, and is different soon.
  await hold.resume()
  await sleep(500)
  await b.node.vms.pause('w', { signal })
  expect((await differingPages(source, destination)).length).toBeGreaterThan(0)

  await b.node.vms.resume('w', { signal })
  await using console = await b.node.console('w')
  expect((await console.run('workload check')).trim()).toBe('ok')
  await hold.leave()
})
