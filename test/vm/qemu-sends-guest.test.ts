/** Guests with a VGA, whose memory QEMU sends itself: it may stop them at any time, and sends a page once. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
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
  // An old QEMU may do: nothing is written to what moves here.
  vi.spyOn(OutgoingMigration, 'isSound').mockReturnValue(true)
  rig = await MigrationRig.start({ qemu })
})
afterAll(async () => {
  await rig?.[Symbol.asyncDispose]()
  await rm(dir, { recursive: true })
})

const runState = async () => (await rig.a.node.vms.show('idle')).runState

afterEach(() => {
  rig.tamper = (_, channel) => channel
})

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
  const departing = vi.spyOn(vms, 'depart')
  onTestFinished(() => departing.mockRestore())
  departing.mockImplementation(async (...which) => {
    const vm = await depart(...which)
    await vm.process.pause()
    return vm
  })
  const startedMs = performance.now()
  const { outcome, error } = await rig.move('idle', rig.a, 'b', { maxBlackoutMs: 1_000 })
  expect({ outcome, code: error?.code }).toEqual({ outcome: 'failed', code: 'BLACKOUT_TOO_LONG' })
  expect(performance.now() - startedMs).toBeLessThan(30_000)
  expect(await runState()).toBe('running')
})

test('pages that a VM there no longer has do not keep the next one from coming', async () => {
  const { a, b } = rig
  const copies = 'for i in $(seq 4); do (head -c $i /dev/zero; cat /bin/busybox) > /run/program-$i; done'
  const overwrite =
    'for i in $(seq 4); do dd if=/dev/urandom of=/run/program-$i conv=notrunc bs=1M count=1; done'
  for (const name of ['one', 'two']) {
    await a.node.vms.run({ name, templateRef: 'base', nics: [] }, { signal: never() })
    await using console = await a.node.console(name)
    await console.run(copies)
    await a.node.vms.pause(name, { signal: never() })
  }
  expect((await rig.move('one', a, 'b')).error).toBeNull()
  // What it brought is noted for the next one, and then changes.
  await expect.poll(() => b.migrations.isMoving).toBe(false)
  await b.node.vms.resume('one', { signal: never() })
  {
    await using console = await b.node.console('one')
    await console.run(overwrite)
  }
  expect(await rig.move('two', a, 'b')).toMatchObject({
    outcome: 'completed',
    digest: 'verified',
    error: null,
  })
})
