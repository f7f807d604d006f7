import { hash } from 'node:crypto'
import { join } from 'node:path'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { GuestMemory } from '../../src/memory/index.ts'
import type { AgentUnderTest } from './drover.ts'
import { showVm } from './two-nodes.ts'

/** Pages read at a time: 1 MiB. */
const READ_PAGES = 256

export interface GuestPages {
  /** SHA-256 over all of the guest's memory. */
  sha256: string
  /** Pages of its own. */
  private: Set<number>
}

/** All of a guest's memory, as a process outside of it sees it. The guest should be paused. */
export async function guestPages(agent: AgentUnderTest, name: string): Promise<GuestPages> {
  const { pid, memoryBytes, template } = await showVm(agent, name)
  const ramPath = join(agent.dataDir, 'templates', template, 'ram')
  await using memory = await GuestMemory.open({ pid: pid!, ramPath, memoryBytes: memoryBytes! })
  const { private: own } = await memory.scan()
  const found = new Set(own)
  const hashes: Buffer[] = []
  const bytes = Buffer.alloc(READ_PAGES * PAGE_BYTES)
  for (let first = 0; first < memory.pages; first += READ_PAGES) {
    const end = Math.min(first + READ_PAGES, memory.pages)
    memory.read({ first, end }, bytes)
    hashes.push(hash('sha256', bytes.subarray(0, (end - first) * PAGE_BYTES), 'buffer'))
  }
  return { sha256: hash('sha256', Buffer.concat(hashes), 'hex'), private: found }
}
