import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { listenForQemu } from '../../src/qemu/index.ts'

test('a socket that an agent left when it was killed does not keep QEMU from the next one', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'drover-outgoing-'))
  onTestFinished(() => rm(dir, { recursive: true }))
  const path = join(dir, 'outgoing.sock')
  const listenAndDie = `require('net').createServer().listen('${path}', () => process.kill(process.pid, 'SIGKILL'))`
  spawnSync(process.execPath, ['-e', listenAndDie])
  expect((await stat(path)).isSocket()).toBe(true)
  const server = await listenForQemu(path)
  server.close()
})
