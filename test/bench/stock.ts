import { mkdir, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { MachineSpec } from '../../src/domain/template.ts'
import { probeQemu, QemuError, type QemuLaunch, QemuProcess, type QmpClient } from '../../src/qemu/index.ts'
import { GuestConsole } from '../support/guest-console.ts'
import { guestRamUse } from './guest-ram.ts'
import type { Link } from './network.ts'
import type { MoveResult } from './results.ts'
import type { Workload } from './workloads.ts'

/** A sealed template's files, as a clone of it needs them. */
export interface TemplateFiles {
  machine: MachineSpec
  ram: string
  state: string
  kernel: string
  initrd: string | null
}

/** How QEMU sends: its defaults, or several connections whose pages are compressed. */
export type StockMode = { kind: 'default' } | { kind: 'multifd'; compression: MultifdCompression }
export type MultifdCompression = 'zstd' | 'zlib'

/** Connections, each with a thread that compresses: QEMU's default. */
const MULTIFD_CHANNELS = 2
const MOVE_TIMEOUT_MS = 600_000

/**
 * Moves a clone the way QEMU does by itself: precopy over TCP into a QEMU with
 * memory of its own. The clone, its template, the machine and the workload are
 * those of drover's move beside it.
 *
 * QEMU's defaults, or multifd with compression; but its bandwidth limit
 * (128 MiB/s) is lifted: on a fast link that would be a handicap. The blackout
 * is measured as drover's is: from the guest's stop to its running at the
 * destination, where it is started as soon as QEMU says that it has everything.
 * The destination's QEMU runs before the clock does.
 */
export async function stockMove(
  template: TemplateFiles,
  options: {
    dir: string
    link: Link
    workload: Pick<Workload, 'start' | 'check'>
    mode: StockMode
  },
): Promise<MoveResult> {
  const { dir, link, workload, mode } = options
  await mkdir(dir, { recursive: true })
  await using cleanup = new AsyncDisposableStack()
  cleanup.defer(() => rm(dir, { recursive: true, force: true }))

  const source = await startClone(template, { dir: join(dir, 's'), qemu: link.source.qemu })
  cleanup.defer(() => source.quit())
  await withConsole(source, workload.start)

  const ownRam = join(dir, 'ram')
  await using file = await open(ownRam, 'w')
  await file.truncate(template.machine.memoryBytes)
  const destination = await startQemu(template, {
    dir: join(dir, 'd'),
    qemu: link.destination.qemu,
    ram: ownRam,
  })
  cleanup.defer(() => destination.quit())

  await setMode(source.qmp, mode)
  await setMode(destination.qmp, mode)
  const { listen, dial } = await link.incoming()
  await destination.qmp.execute('migrate-incoming', { uri: listen })
  const before = await link.wireBytes()
  const timeoutMs = MOVE_TIMEOUT_MS
  const stopped = source.qmp.waitForEvent('STOP', () => true, { timeoutMs }).then(() => performance.now())
  const arrived = destination.qmp.waitForEvent('MIGRATION', ({ data }) => data.status === 'completed', {
    timeoutMs,
  })
  const startedMs = performance.now()
  await source.qmp.execute('migrate', { uri: dial })
  await arrived
  await destination.resume()
  const endedMs = performance.now()
  const blackoutMs = endedMs - (await stopped)
  const wireBytes = (await link.wireBytes()) - before
  await withConsole(destination, workload.check)
  const { privateBytes } = await guestRamUse(destination.pid, ownRam)
  return { totalMs: endedMs - startedMs, blackoutMs, wireBytes, destinationBytes: privateBytes }
}

/** zstd, unless this QEMU was built without it: then zlib, which each has. */
export async function multifdCompression(
  template: TemplateFiles,
  at: { dir: string; qemu: string },
): Promise<MultifdCompression> {
  await using cleanup = new AsyncDisposableStack()
  cleanup.defer(() => rm(at.dir, { recursive: true, force: true }))
  await mkdir(at.dir, { recursive: true })
  const qemu = await startQemu(template, { ...at, ram: template.ram })
  cleanup.defer(() => qemu.quit())
  try {
    await setMode(qemu.qmp, { kind: 'multifd', compression: 'zstd' })
    return 'zstd'
  } catch (error) {
    if (!(error instanceof QemuError) || error.code !== 'QMP_ERROR') throw error
    return 'zlib'
  }
}

async function startClone(template: TemplateFiles, at: { dir: string; qemu: string }): Promise<QemuProcess> {
  const process = await startQemu(template, { ...at, ram: template.ram })
  await process.loadTemplateState(template.state)
  await process.resume()
  return process
}

async function startQemu(
  template: TemplateFiles,
  at: { dir: string; qemu: string; ram: string },
): Promise<QemuProcess> {
  const launch: QemuLaunch = {
    machine: template.machine,
    ram: { path: at.ram, share: false },
    kernelPath: template.kernel,
    initrdPath: template.initrd,
    disk: null,
    nics: [],
    generationId: 'auto',
    incoming: true,
    runDir: at.dir,
  }
  return QemuProcess.start(await probeQemu(at.qemu, { accelerator: template.machine.accelerator }), launch)
}

async function withConsole(vm: QemuProcess, use: (console: GuestConsole) => Promise<void>): Promise<void> {
  await using console = await GuestConsole.connect(vm.consoleSocket)
  await use(console)
}

/** QMP commands that drover itself has no use for. */
interface AnyQmp {
  execute(command: string, args: Record<string, unknown>): Promise<Record<string, unknown>>
}
const anyQmp = (qmp: QmpClient) => qmp as unknown as AnyQmp

async function setMode(qmp: QmpClient, mode: StockMode): Promise<void> {
  const any = anyQmp(qmp)
  const capabilities = ['events', ...(mode.kind === 'multifd' ? ['multifd'] : [])]
  await any.execute('migrate-set-capabilities', {
    capabilities: capabilities.map((capability) => ({ capability, state: true })),
  })
  await any.execute('migrate-set-parameters', {
    'max-bandwidth': 0,
    ...(mode.kind === 'default'
      ? {}
      : { 'multifd-channels': MULTIFD_CHANNELS, 'multifd-compression': mode.compression }),
  })
}
