/** A QEMU without a machine: nothing but the memory backend, so that only the test writes to it. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { GuestMemory } from '../../src/memory/index.ts'
import { findGuestMapping } from '../../src/memory/mapping.ts'

const QEMU = process.env.DROVER_TEST_QEMU ?? 'qemu-system-x86_64'

export interface BareMemory extends AsyncDisposable {
  dir: string
  ramPath: string
  /** What the file holds, for good. */
  template: Buffer
  pid: number
  open(): Promise<GuestMemory>
  /** Writes to the guest's memory, from outside. */
  write(page: number, content: Uint8Array): Promise<void>
  /** Ends QEMU. */
  kill(): Promise<void>
}

export async function startBareMemory(pages: number): Promise<BareMemory> {
  const memoryBytes = pages * PAGE_BYTES
  const dir = await mkdtemp(join(tmpdir(), 'drover-memory-'))
  const ramPath = join(dir, 'ram')
  const template = randomBytes(memoryBytes)
  await writeFile(ramPath, template)
  const backend = `memory-backend-file,id=ram0,size=${memoryBytes},mem-path=${ramPath},share=off`
  const qemu = spawn(
    QEMU,
    ['-S', '-machine', 'none', '-nodefaults', '-display', 'none', '-object', backend],
    {
      stdio: 'inherit',
    },
  )
  await once(qemu, 'spawn')
  const pid = qemu.pid!
  const kill = async () => {
    if (qemu.exitCode !== null || qemu.signalCode !== null) return
    const exit = once(qemu, 'exit')
    qemu.kill('SIGKILL')
    await exit
  }
  const dispose = async () => {
    await kill()
    await rm(dir, { recursive: true })
  }
  for (let tries = 0; !(await readFile(`/proc/${pid}/maps`, 'utf8')).includes(ramPath); tries++) {
    if (tries === 200) {
      await dispose()
      throw new Error('QEMU did not map the file in 10 s')
    }
    await sleep(50)
  }
  return {
    dir,
    ramPath,
    template,
    pid,
    open: () => GuestMemory.open({ pid, ramPath, memoryBytes }),
    write: async (page, content) => {
      const { addressBytes } = await findGuestMapping(pid, ramPath, memoryBytes)
      await using mem = await open(`/proc/${pid}/mem`, 'r+')
      await mem.write(content, 0, content.length, addressBytes + page * PAGE_BYTES)
    },
    kill,
    [Symbol.asyncDispose]: dispose,
  }
}
