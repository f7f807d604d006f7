import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import type { NicSpec } from '../../src/domain/vm.ts'
import { GuestMemory } from '../../src/memory/index.ts'
import {
  type IncomingStream,
  preflight,
  type QemuBinary,
  type QemuLaunch,
  QemuProcess,
  RAM_BLOCK,
  readStateFile,
} from '../../src/qemu/index.ts'
import { GuestConsole } from '../support/guest-console.ts'
import {
  guestLaunch,
  makeTemplate,
  startClone,
  temporaryDirectory,
  testBinary,
} from '../support/qemu-guest.ts'

const DISK_BYTES = 4 * 1024 * 1024

let binary: QemuBinary
let dir: { path: string } & AsyncDisposable

beforeAll(async () => {
  binary = await testBinary()
  dir = await temporaryDirectory()
  await writeFile(join(dir.path, 'disk'), Buffer.alloc(DISK_BYTES, 'template disk\n'))
  await makeTemplate(binary, dir.path, { disk: { basePath: join(dir.path, 'disk'), overlayPath: null } })
})

afterAll(async () => {
  await dir?.[Symbol.asyncDispose]()
})

function ended(qemu: QemuProcess): QemuProcess {
  onTestFinished(() => qemu.quit({ timeoutMs: 0 }))
  return qemu
}

/** A VM of the template with an overlay of its own, and what starts a QEMU for it to arrive in. */
async function startSource(
  name: string,
  nics: NicSpec[] = [],
): Promise<{ source: QemuProcess; arrival: QemuLaunch }> {
  const overlayPath = join(dir.path, `${name}.qcow2`)
  await promisify(execFile)('qemu-img', ['create', '-q', '-f', 'qcow2', overlayPath, String(DISK_BYTES)])
  const disk = { basePath: join(dir.path, 'disk'), overlayPath }
  const source = ended(await startClone(binary, dir.path, name, { disk }))
  for (const nic of nics) await source.addNic(nic)
  const launch = await guestLaunch(binary, dir.path, `${name}-arrival`)
  return { source, arrival: { ...launch, disk, nics, generationId: await source.generationId() } }
}

/** Writes everything but the devices: the template's ROMs, and the pages that are the source's own. */
async function writeMemory(stream: IncomingStream, source: QemuProcess): Promise<void> {
  const { machineType, blocks } = readStateFile(await readFile(join(dir.path, 'state')))
  await stream.begin({ machineType, blocks })
  for (const { name, pages } of blocks) {
    const filled = pages.flatMap(({ offsetBytes, content }) =>
      content === null ? [] : [{ offsetBytes, content }],
    )
    await stream.writePages(name, filled)
    await stream.writeZeroPages(
      name,
      pages.filter(({ content }) => content === null).map(({ offsetBytes }) => offsetBytes),
    )
  }
  const memoryBytes = blocks.find(({ name }) => name === RAM_BLOCK)!.usedBytes
  await using memory = await GuestMemory.open({
    pid: source.pid,
    ramPath: join(dir.path, 'ram'),
    memoryBytes,
  })
  const { private: pages } = await memory.scan()
  const buffer = Buffer.alloc(256 * 4096)
  for (const run of pages.runs(256)) {
    memory.read(run, buffer)
    const list = Array.from({ length: run.end - run.first }, (_, i) => ({
      offsetBytes: (run.first + i) * 4096,
      content: buffer.subarray(i * 4096, (i + 1) * 4096),
    }))
    await stream.writePages(RAM_BLOCK, list)
  }
}

async function freePort(): Promise<number> {
  await using server = createServer()
  await new Promise<void>((resolve) => server.listen(0, resolve))
  return (server.address() as { port: number }).port
}

test('a VM moves with its memory, disk, NIC and identity, keeps the sharing, and reboots', async () => {
  const hostPort = await freePort()
  const mac = '52:54:00:00:00:01'
  const forwards = [{ protocol: 'tcp', hostPort, guestPort: 80 }] as const
  const { source, arrival } = await startSource('mover', [{ kind: 'user', slot: 0, mac, forwards: [] }])
  const sourceConsole = await GuestConsole.connect(source.consoleSocket)
  await sourceConsole.run('workload data 8 seed; workload counter start')
  await sourceConsole.run('dd if=/dev/zero of=/dev/vda bs=4096 seek=1 count=1 conv=fsync')
  await sourceConsole.run('until [ "$(ip -4 -o addr show eth0)" ]; do usleep 100000; done')
  await preflight(source)

  // A forwarded port can be open once on this machine: the source has the NIC without it.
  const nics = [{ kind: 'user', slot: 0, mac, forwards }] as const
  const destination = ended(await QemuProcess.start(binary, { ...arrival, nics }))
  const stream = await destination.openIncoming()
  await source.pause()
  const deviceState = await source.saveDeviceState()
  await writeMemory(stream, source)
  await stream.finish(deviceState)
  await stream.loaded()
  expect(await destination.status()).toBe('paused')
  const [before, after] = [await privatePages(source), await privatePages(destination)]
  await sourceConsole.close()
  await source.quit()
  await destination.resume()

  await using console = await GuestConsole.connect(destination.consoleSocket)
  expect(await console.run('workload check')).toBe('ok')
  const count = Number(await console.run('workload counter read'))
  await expect.poll(async () => Number(await console.run('workload counter read'))).toBeGreaterThan(count)
  expect(await console.run('head -c 14 /dev/vda')).toBe('template disk')
  expect(await console.run('dd if=/dev/vda bs=4096 skip=1 count=1 2> /dev/null | tr -d "\\0" | wc -c')).toBe(
    '0',
  )
  expect(await console.run('cat /sys/class/net/eth0/address')).toBe(mac)
  const page = await fetch(`http://127.0.0.1:${hostPort}/`)
  expect((await page.text()).trim()).toBe('drover-guest')
  expect(await destination.generationId()).toBe(arrival.generationId)
  // Loading the devices writes to a few pages of its own.
  expect(after).toBeGreaterThanOrEqual(before)
  expect(after).toBeLessThan(before + 64)

  await destination.reset()
  await console.waitFor(/drover-guest ready/)
  expect(await console.run('echo booted')).toBe('booted')
})

async function privatePages(qemu: QemuProcess): Promise<number> {
  const vm = { pid: qemu.pid, ramPath: join(dir.path, 'ram'), memoryBytes: 256 * 1024 * 1024 }
  await using memory = await GuestMemory.open(vm)
  return (await memory.counts()).private
}

test('a destination that dies in the middle ends the stream; the source runs on, disk included', async () => {
  const { source, arrival } = await startSource('survivor')
  const destination = ended(await QemuProcess.start(binary, arrival))
  const stream = await destination.openIncoming()
  await source.pause()
  await source.saveDeviceState()
  await writeMemory(stream, source)
  process.kill(destination.pid, 'SIGKILL')
  await destination.exited
  const page = [{ offsetBytes: 0, content: Buffer.alloc(4096, 1) }]
  await expect(stream.writePages(RAM_BLOCK, page)).rejects.toMatchObject({ code: 'INCOMING_FAILED' })
  await source.resume()
  await using console = await GuestConsole.connect(source.consoleSocket)
  expect(await console.run('dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync 2>&1')).toContain(
    '1+0 records out',
  )
})

test('a device state that is garbage is refused with the words of QEMU', async () => {
  const { source, arrival } = await startSource('garbage')
  const destination = ended(await QemuProcess.start(binary, arrival))
  const stream = await destination.openIncoming()
  await source.pause()
  const deviceState = await source.saveDeviceState()
  await writeMemory(stream, source)
  // It may give up while it still reads, or when it has read all.
  const arriving = stream.finish(deviceState.fill(0xff, 1000)).then(() => stream.loaded({ timeoutMs: 5000 }))
  await expect(arriving).rejects.toMatchObject({
    code: 'INCOMING_FAILED',
    details: { reason: expect.stringMatching(/load|section|migrat/i) },
  })
})

test('a QEMU that hangs while it loads ends in time', async () => {
  const { source, arrival } = await startSource('hang')
  const destination = ended(await QemuProcess.start(binary, arrival))
  const stream = await destination.openIncoming()
  await source.pause()
  const deviceState = await source.saveDeviceState()
  await writeMemory(stream, source)
  process.kill(destination.pid, 'SIGSTOP')
  // Whether the devices fit into the socket's buffer, and only loading hangs, is the kernel's affair.
  const arriving = stream
    .finish(deviceState, { timeoutMs: 200 })
    .then(() => stream.loaded({ timeoutMs: 200 }))
  await expect(arriving).rejects.toMatchObject({ code: 'INCOMING_FAILED' })
})

test('an aborted arrival leaves a QEMU that quits', async () => {
  const { source, arrival } = await startSource('aborted')
  const destination = ended(await QemuProcess.start(binary, arrival))
  const stream = await destination.openIncoming()
  await source.pause()
  await writeMemory(stream, source)
  stream.abort()
  await destination.quit()
  await source.resume()
  expect(await source.status()).toBe('running')
})
