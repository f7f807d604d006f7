/** The state file of a derived template, beside one that stock QEMU wrote of the same paused machine. */
import { copyFile, open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { GuestMemory } from '../../src/memory/index.ts'
import { deriveStateFile, QemuProcess, readStateFile } from '../../src/qemu/index.ts'
import { GuestConsole } from '../support/guest-console.ts'
import {
  guestLaunch,
  makeTemplate,
  startClone,
  temporaryDirectory,
  testBinary,
} from '../support/qemu-guest.ts'

/** Length and text of the saved run state, "paused" or "running": 8 bytes. A clock of the host's may have gone on. */
const MAX_DIFFERING_BYTES = 16

function ended(qemu: QemuProcess): QemuProcess {
  onTestFinished(() => qemu.quit({ timeoutMs: 0 }))
  return qemu
}

test("is what stock QEMU's migrate writes, description aside", async () => {
  const binary = await testBinary()
  await using dir = await temporaryDirectory()
  await makeTemplate(binary, dir.path)
  // A second boot on the same file: main RAM is shared, so that `migrate` leaves it out as it did for the template.
  const launch = await guestLaunch(binary, dir.path, 'stock')
  const qemu = ended(
    await QemuProcess.start(binary, {
      ...launch,
      ram: { path: launch.ram.path, share: true },
      incoming: false,
    }),
  )
  await using console = await GuestConsole.connect(qemu.consoleSocket)
  await qemu.resume()
  await console.waitFor(/drover-guest ready/)
  await qemu.pause()
  const parent = await readFile(join(dir.path, 'state'))
  const derived = deriveStateFile(parent, await qemu.saveDeviceState({ releaseDisks: false }))
  await qemu.saveTemplateState(join(dir.path, 'stock-state'))
  const stock = await readFile(join(dir.path, 'stock-state'))

  const { ramEndBytes, ...ram } = readStateFile(stock)
  const { ramEndBytes: derivedRamEndBytes, ...derivedRam } = readStateFile(derived)
  expect(derivedRam).toEqual(ram)
  const devices = derived.subarray(derivedRamEndBytes, -'\x06\0\0\0\x02{}'.length)
  const stockDevices = stock.subarray(ramEndBytes, ramEndBytes + devices.length)
  // What follows there is the description, and here all sections are as long.
  expect(stock[ramEndBytes + devices.length]).toBe(0x06)
  const differing = devices.filter((byte, at) => byte !== stockDevices[at]).length
  expect(differing).toBeLessThan(MAX_DIFFERING_BYTES)
})

test('a clone of a clone begins where that was, and finds its ROMs at a reset', async () => {
  const binary = await testBinary()
  await using dir = await temporaryDirectory()
  await makeTemplate(binary, dir.path)
  const qemu = ended(await startClone(binary, dir.path, 'first'))
  {
    await using console = await GuestConsole.connect(qemu.consoleSocket)
    await console.run('echo kept > /run/mark; workload counter start')
  }
  await qemu.pause()
  await using derived = await temporaryDirectory()
  const ramPath = join(derived.path, 'ram')
  await copyFile(join(dir.path, 'ram'), ramPath)
  const state = await readFile(join(dir.path, 'state'))
  const deviceState = await qemu.saveDeviceState({ releaseDisks: false })
  await writeFile(join(derived.path, 'state'), deriveStateFile(state, deviceState))
  await copyPrivatePages(qemu, join(dir.path, 'ram'), ramPath)
  await qemu.resume()

  const clone = ended(await startClone(binary, derived.path, 'second'))
  for (const each of [qemu, clone]) {
    await using console = await GuestConsole.connect(each.consoleSocket)
    expect(await console.run('cat /run/mark')).toBe('kept')
    const count = Number(await console.run('workload counter read'))
    await expect.poll(async () => Number(await console.run('workload counter read'))).toBeGreaterThan(count)
  }
  expect(await clone.generationId()).not.toBe(await qemu.generationId())
  await using console = await GuestConsole.connect(clone.consoleSocket)
  await clone.reset()
  await console.waitFor(/drover-guest ready/, { timeoutMs: 120_000 })
})

async function copyPrivatePages(qemu: QemuProcess, ramPath: string, to: string): Promise<void> {
  const { memoryBytes } = (await guestLaunch(await testBinary(), '/', 'x')).machine
  await using memory = await GuestMemory.open({ pid: qemu.pid, ramPath, memoryBytes })
  await using file = await open(to, 'r+')
  const bytes = Buffer.alloc(PAGE_BYTES)
  for (const page of (await memory.scan()).private) {
    memory.read({ first: page, end: page + 1 }, bytes)
    await file.write(bytes, 0, PAGE_BYTES, page * PAGE_BYTES)
  }
}
