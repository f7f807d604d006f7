/**
 * Runs inside the test guest, whose kernel has soft-dirty: drives the real
 * tracker against a real process and prints what it found as one JSON line.
 *
 * The process is a sleeping busybox; the "guest memory" is its own program
 * file, mapped privately, whose pages become private when they are written
 * through /proc/PID/mem: just what a clone's RAM is.
 */
import { spawn } from 'node:child_process'
import { open, realpath } from 'node:fs/promises'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { GuestMemory, probeSoftDirty, softDirtyTracker } from '../../src/memory/index.ts'
import { findGuestMapping } from '../../src/memory/mapping.ts'

const MEMORY_BYTES = 64 * PAGE_BYTES

const child = spawn('sleep', ['300'], { stdio: 'ignore' })
const pid = child.pid!
const ramPath = await realpath(`/proc/${pid}/exe`)
const { addressBytes } = await findGuestMapping(pid, ramPath, MEMORY_BYTES)
await using mem = await open(`/proc/${pid}/mem`, 'r+')
await using memory = await GuestMemory.open({ pid, ramPath, memoryBytes: MEMORY_BYTES })

/** Writes a byte back to itself: the content stays, the page becomes private and dirty. */
async function touch(page: number): Promise<void> {
  const byte = new Uint8Array(1)
  await mem.read(byte, 0, 1, addressBytes + page * PAGE_BYTES)
  await mem.write(byte, 0, 1, addressBytes + page * PAGE_BYTES)
}

const tracker = softDirtyTracker(memory)
const rounds: number[][] = []
for (const pages of [[10, 11], [], [11, 40], [63], []]) {
  for (const page of pages) await touch(page)
  rounds.push([...(await tracker.next()).candidates])
}
const { private: privatePages } = await tracker.next()
console.log(JSON.stringify({ probe: await probeSoftDirty(), rounds, private: [...privatePages] }))
child.kill('SIGKILL')
