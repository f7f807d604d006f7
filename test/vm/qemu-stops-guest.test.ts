/** Where QEMU sends the guest itself, it may stop it at any time: from then on the guest's limit counts. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { unlessAborted } from '../../src/domain/wait.ts'
import { MIGRATE_PROTOCOL } from '../../src/migration/index.ts'
import { OutgoingMigration } from '../../src/qemu/index.ts'
import { testGuest } from '../support/guest.ts'
import { MigrationRig } from './migration-rig.ts'

const never = () => new AbortController().signal

let dir: string
let rig: MigrationRig
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drover-vga-'))
  const qemu = join(dir, 'qemu-with-vga')
  const vga = 'case "$*" in *pc-q35*) set -- "$@" -device VGA ;; esac'
  await writeFile(qemu, `#!/bin/sh\n${vga}\nexec ${(await testGuest()).qemu} "$@"\n`)
  await chmod(qemu, 0o755)
  // Nothing arrives here: an old QEMU may do.
  vi.spyOn(OutgoingMigration, 'isSound').mockReturnValue(true)
  rig = await MigrationRig.start({ qemu })
})
afterAll(async () => {
  await rig?.[Symbol.asyncDispose]()
  await rm(dir, { recursive: true })
})

const runState = async () => (await rig.a.node.vms.show('idle')).runState

test('a guest that QEMU has stopped goes on when the peer is silent for all of its limit', async () => {
  rig.tamper = (protocol, channel) => {
    if (protocol !== MIGRATE_PROTOCOL) return channel
    const receive = channel.receive.bind(channel)
    channel.receive = async (options) => {
      const message = await receive(options)
      if ((await runState()) === 'finish-migrate')
        await unlessAborted(new Promise<never>(() => {}), options.signal!)
      return message
    }
    return channel
  }
  const { vms } = rig.a.node
  await vms.run({ name: 'idle', templateRef: 'base', nics: [] }, { signal: never() })
  // One that writes nothing at all: QEMU stops it after its first pass.
  const depart = vms.depart.bind(vms)
  vi.spyOn(vms, 'depart').mockImplementation(async (...which) => {
    const departing = await depart(...which)
    await departing.process.pause()
    return departing
  })
  const startedMs = performance.now()
  const { outcome, error } = await rig.move('idle', rig.a, 'b', { maxBlackoutMs: 1_000 })
  expect({ outcome, code: error?.code }).toEqual({ outcome: 'failed', code: 'BLACKOUT_TOO_LONG' })
  expect(performance.now() - startedMs).toBeLessThan(30_000)
  expect(await runState()).toBe('running')
})
