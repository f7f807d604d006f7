import { readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { PAGE_BYTES, type PageIndex } from '../../src/domain/page.ts'
import { GuestMemory } from '../../src/memory/index.ts'

/** Pages read at a time: 1 MiB. */
const READ_PAGES = 256

/** A running clone, as a process outside of it finds its memory. */
export interface CloneMemory {
  pid: number
  /** Its template's RAM file, as its QEMU maps it. */
  ramPath: string
  memoryBytes: number
}

/**
 * Calls `see` with each private page of a clone and the template's page in its place, in the order of their
 * addresses. Both are views that hold until `see` returns.
 *
 * @throws MemoryError MEMORY_PROCESS_GONE, MEMORY_MAPPING_NOT_FOUND, MEMORY_NOT_PERMITTED
 */
export async function eachPrivatePage(
  clone: CloneMemory,
  see: (index: PageIndex, page: Buffer, templatePage: Buffer) => void,
): Promise<void> {
  await using memory = await GuestMemory.open(clone)
  await using template = await open(clone.ramPath, 'r')
  const [own, base] = [Buffer.alloc(READ_PAGES * PAGE_BYTES), Buffer.alloc(READ_PAGES * PAGE_BYTES)]
  const { private: isPrivate } = await memory.scan()
  for (const run of isPrivate.runs(READ_PAGES)) {
    memory.read(run, own)
    const length = (run.end - run.first) * PAGE_BYTES
    if (readSync(template.fd, base, 0, length, run.first * PAGE_BYTES) !== length)
      throw new Error(`${clone.ramPath} ends before page ${run.end}`)
    for (let page = run.first; page < run.end; page++) {
      const [from, to] = [(page - run.first) * PAGE_BYTES, (page - run.first + 1) * PAGE_BYTES]
      see(page, own.subarray(from, to), base.subarray(from, to))
    }
  }
}
