import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { testGuest } from '../support/guest.ts'
import { GuestConsole } from '../support/guest-console.ts'
import { initrdWithNode } from '../support/node-in-guest.ts'

/** The host's kernel may have no soft-dirty; Debian's has. So the tracker runs in a guest with that kernel. */
test('the soft-dirty tracker is exact on a kernel that has soft-dirty', { timeout: 120_000 }, async () => {
  const dir = await mkdtemp(join(tmpdir(), 'drover-soft-dirty-'))
  const guest = await testGuest()
  const sources = ['src/memory', 'src/domain', 'test/vm/soft-dirty-in-guest.ts', 'package.json']
  const initrd = await initrdWithNode(guest.dir, dir, sources)
  const socket = join(dir, 'console.sock')
  const qemu = spawn(
    guest.qemu,
    [
      ...['-machine', 'q35', '-accel', 'tcg', '-cpu', 'max', '-m', '1G', '-nodefaults', '-display', 'none'],
      ...['-kernel', guest.kernel, '-initrd', initrd, '-append', guest.append],
      ...['-serial', `unix:${socket},server=on,wait=on`],
    ],
    { stdio: 'inherit' },
  )
  const exit = once(qemu, 'exit')
  try {
    await using console = await GuestConsole.connect(socket, { signal: AbortSignal.timeout(30_000) })
    await console.waitFor(/drover-guest ready/, { timeoutMs: 60_000 })
    const output = await console.run('node /drover/test/vm/soft-dirty-in-guest.ts', { timeoutMs: 60_000 })
    const found = JSON.parse(output.trim().split('\n').at(-1)!)
    expect(found).toEqual({
      probe: true,
      rounds: [[10, 11], [], [11, 40], [63], []],
      private: [10, 11, 40, 63],
    })
  } finally {
    qemu.kill('SIGKILL')
    await exit
    await rm(dir, { recursive: true })
  }
})
