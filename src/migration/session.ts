import { randomInt } from 'node:crypto'
import type { PeerIdText } from '../domain/vm.ts'
import { type DirtyTracker, isMemoryClosed, type ScannedMemory } from '../memory/index.ts'
import { deviceSections, OutgoingMigration, preflight } from '../qemu/index.ts'
import { readTemplateState, type TemplateStore } from '../template/index.ts'
import type { Channel, OpenChannel } from '../wire/channel.ts'
import { Capture } from './capture.ts'
import { ControlChannel } from './control.ts'
import { MigrationError } from './errors.ts'
import { type ExtraBlock, extraBlocksOf } from './extra-blocks.ts'
import type { KeptPages } from './kept/kept-pages.ts'
import { LetQemuSend } from './let-qemu-send.ts'
import { LinkRate } from './link-rate.ts'
import type { DepartingVm } from './ports.ts'
import { MIGRATE_PROTOCOL, PAGES_PROTOCOL, TIMEOUTS_MS } from './protocol.ts'
import { ReadMemory } from './read-memory.ts'
import type { PageThreads } from './threads/page-threads.ts'

export interface SessionComponents {
  templates: TemplateStore
  open: OpenChannel
  threads: PageThreads
  kept: KeptPages
  /** Chosen once per node, by probing the kernel. */
  trackerFor: (memory: ScannedMemory) => DirtyTracker
}

/**
 * What the source holds open while it moves a VM. All of it is opened before
 * the first message, so that nothing is dialled or opened in the blackout.
 */
export class SourceSession implements AsyncDisposable {
  readonly vm: DepartingVm
  readonly controlChannel: Channel
  readonly control: ControlChannel
  readonly pages: Channel
  readonly capture: Capture
  /** Of the page hashes. */
  readonly hashSeed: number
  /** Digest of the pages that the VM came with, which the node that it came from may have kept. */
  readonly baseline: Uint8Array | null
  readonly link = new LinkRate()
  /** From Offer to Accept, as soon as it is known. */
  rttMs = 0
  readonly #cleanup: AsyncDisposableStack

  private constructor(
    vm: DepartingVm,
    opened: { control: Channel; pages: Channel },
    parts: { capture: Capture; hashSeed: number; baseline: Uint8Array | null },
    cleanup: AsyncDisposableStack,
  ) {
    this.vm = vm
    this.controlChannel = opened.control
    this.control = new ControlChannel(opened.control)
    this.pages = opened.pages
    this.capture = parts.capture
    this.hashSeed = parts.hashSeed
    this.baseline = parts.baseline
    this.#cleanup = cleanup
  }

  /**
   * @throws MigrationError MIGRATION_TIMEOUT; MeshError; MemoryError; QemuError NOT_MOVABLE; TemplateError
   */
  static async open(
    components: SessionComponents,
    { vm, to, signal }: { vm: DepartingVm; to: PeerIdText; signal: AbortSignal },
  ): Promise<SourceSession> {
    const { open } = components
    await using cleanup = new AsyncDisposableStack()
    const held = async <T>(opening: Promise<T>, release: (opened: T) => void | Promise<void>): Promise<T> => {
      const opened = await opening
      // One of the others may have failed meanwhile, and the stack be gone.
      if (cleanup.disposed) await release(opened)
      else cleanup.defer(() => release(opened))
      return opened
    }
    const channel = (protocol: string): Promise<Channel> =>
      // Aborting does nothing after a clean close; after a failure it frees the stream.
      held(openInTime(open, { to, protocol, signal }), (opened) => opened.abort(new Error('the move ended')))
    const prepareCapture = async (): Promise<Capture> => {
      const source = await captureSource(components, vm)
      const captured = source.extraBlocks.map(({ name }) => name)
      const opening = held(openCapture(components, vm, source), (opened) => opened[Symbol.asyncDispose]())
      const [opened] = await Promise.all([opening, preflight(vm.process, { signal, captured })])
      return opened
    }
    const [capture, control, pages] = await Promise.all([
      prepareCapture(),
      channel(MIGRATE_PROTOCOL),
      channel(PAGES_PROTOCOL),
    ])
    const { seed: hashSeed, baseline } = await capture.hashing()
    return new SourceSession(vm, { control, pages }, { capture, hashSeed, baseline }, cleanup.move())
  }

  /** Ends both channels once everything sent has left. */
  async close(): Promise<void> {
    await Promise.all([this.controlChannel.close(), this.pages.close()])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.disposeAsync()
  }
}

interface CaptureSource {
  templateState: Buffer
  mayQemuSend: boolean
  /** Empty where QEMU may not send them: the VM is refused for them then. */
  extraBlocks: ExtraBlock[]
}

async function captureSource({ templates }: SessionComponents, vm: DepartingVm): Promise<CaptureSource> {
  const templateState = await readTemplateState(templates, vm.record.spec.templateId)
  const mayQemuSend = OutgoingMigration.isSound(vm.process.qmp, vm.machine.accelerator)
  return { templateState, mayQemuSend, extraBlocks: mayQemuSend ? extraBlocksOf(templateState) : [] }
}

/** Reads the guest's memory where it may be read, and is all of it; otherwise QEMU sends it. */
async function openCapture(
  { kept, threads, trackerFor }: SessionComponents,
  vm: DepartingVm,
  { templateState, mayQemuSend, extraBlocks }: CaptureSource,
): Promise<Capture> {
  const { process, ramPath } = vm
  const location = { pid: process.pid, ramPath, memoryBytes: vm.machine.memoryBytes }
  const guest = { ...location, seed: randomInt(2 ** 32), dictionary: deviceSections(templateState) }
  if (extraBlocks.length === 0) {
    try {
      return await Capture.open(
        { threads, wayOf: (job, freeze) => new ReadMemory({ process, job, freeze }, { trackerFor }) },
        { ...guest, tablePath: kept.tablePath(vm.record.spec.id), outgoing: null },
      )
    } catch (error) {
      if (!isMemoryClosed(error) || !mayQemuSend) throw error
    }
  }
  const passEnded = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)
  return Capture.open(
    {
      threads,
      wayOf: (job) => new LetQemuSend({ process, job }, { guest: location, extraBlocks, passEnded }),
    },
    { ...guest, tablePath: null, outgoing: { socketPath: process.outgoingSocket, passEnded, extraBlocks } },
  )
}

/** @throws MigrationError MIGRATION_TIMEOUT; MeshError; the signal's reason */
export async function openInTime(
  open: OpenChannel,
  { to, protocol, signal }: { to: PeerIdText; protocol: string; signal: AbortSignal },
): Promise<Channel> {
  const timeout = AbortSignal.timeout(TIMEOUTS_MS.dial)
  try {
    return await open(to, protocol, AbortSignal.any([signal, timeout]))
  } catch (cause) {
    if (!timeout.aborted || signal.aborted) throw cause
    throw new MigrationError('MIGRATION_TIMEOUT', `no channel to the peer in ${TIMEOUTS_MS.dial} ms`, {
      cause,
    })
  }
}
