import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** The test guest's files and the QEMU that the tests run it with. */
export interface TestGuest {
  dir: string
  kernel: string
  initrd: string
  /** Kernel command line that suits it. */
  append: string
  /** DROVER_TEST_QEMU, or the machine's own. */
  qemu: string
}

let guest: Promise<TestGuest> | undefined

/** Builds the guest image when it isn't there or is out of date; looking takes a second, so once per process. */
export function testGuest(): Promise<TestGuest> {
  guest ??= findGuest()
  return guest
}

async function findGuest(): Promise<TestGuest> {
  const script = join(import.meta.dirname, '../../scripts/guest-image')
  const { stdout } = await promisify(execFile)(script)
  const dir = stdout.trim().split('\n').at(-1)!
  return {
    dir,
    kernel: join(dir, 'vmlinuz'),
    initrd: join(dir, 'initrd.img'),
    append: (await readFile(join(dir, 'append'), 'utf8')).trim(),
    qemu: process.env.DROVER_TEST_QEMU ?? 'qemu-system-x86_64',
  }
}
