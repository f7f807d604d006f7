import { once } from 'node:events'
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Level } from 'level'
import { CHUNK_BYTES, PAGE_BYTES } from '../../src/domain/page.ts'
import type { MachineSpec, TemplateId, TemplateRecord } from '../../src/domain/template.ts'
import { type TemplateDraft, TemplateStore } from '../../src/template/index.ts'

export const CHUNKS = 3

export const machine: MachineSpec = {
  machineType: 'pc-q35-7.2',
  accelerator: 'tcg',
  cpuModel: 'qemu64-v1',
  cpus: 1,
  memoryBytes: CHUNKS * CHUNK_BYTES,
  spareRootPorts: 4,
  kernelCommandLine: 'console=ttyS0',
}

/** A node's disk: a database and a template store, which can be stopped and started again. */
export class TestNode implements AsyncDisposable {
  readonly dir: string
  /** VMs by the template that they use. */
  readonly vms = new Map<TemplateId, string[]>()
  db!: Level<string, unknown>
  store!: TemplateStore

  private constructor(dir: string) {
    this.dir = dir
  }

  /** @param parent - directory to make its own in */
  static async start(parent = tmpdir()): Promise<TestNode> {
    const node = new TestNode(await mkdtemp(join(parent, 'drover-template-')))
    await node.#open()
    return node
  }

  /** See TemplateStoreInit. */
  onDiskShort: () => boolean = () => false

  get templatesDir(): string {
    return join(this.dir, 'templates')
  }

  async restart(whileDown: () => Promise<void> = async () => {}): Promise<void> {
    await this.#close()
    await whileDown()
    await this.#open()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close()
    await rm(this.dir, { recursive: true, force: true })
  }

  async #open(): Promise<void> {
    this.db = new Level<string, unknown>(join(this.dir, 'db'), { valueEncoding: 'json' })
    await this.db.open()
    const inUseBy = (id: TemplateId): readonly string[] => this.vms.get(id) ?? []
    this.store = new TemplateStore(
      { db: this.db },
      { dir: this.templatesDir, inUseBy, onDiskShort: () => this.onDiskShort() },
    )
    await this.store.start()
  }

  async #close(): Promise<void> {
    await this.store.stop()
    await this.db.close()
  }
}

export interface Content {
  /** Pages that aren't zero, by index, and the byte that they are full of. */
  pages?: Record<number, number>
  /** Pages of noise, which don't compress. */
  noise?: Record<number, Uint8Array>
  kernel?: string
  disk?: Uint8Array
}

/** Pages 1 and 300 hold something, chunk 2 nothing. */
const DEFAULT_PAGES = { 1: 0x11, 300: 0x22 }

/** What a boot leaves in a draft. */
export async function fill(draft: TemplateDraft, content: Content = {}): Promise<void> {
  await using ram = await open(draft.files.ram, 'w')
  await ram.truncate(machine.memoryBytes)
  for (const [page, byte] of Object.entries(content.pages ?? DEFAULT_PAGES)) {
    await ram.write(new Uint8Array(PAGE_BYTES).fill(byte), 0, PAGE_BYTES, Number(page) * PAGE_BYTES)
  }
  for (const [page, bytes] of Object.entries(content.noise ?? {})) {
    await ram.write(bytes, 0, bytes.length, Number(page) * PAGE_BYTES)
  }
  await writeFile(draft.files.state, 'device state')
  await writeFile(draft.files.kernel, content.kernel ?? 'kernel')
  await writeFile(draft.files.initrd, 'initrd')
  if (content.disk !== undefined) await writeFile(draft.files.disk, content.disk)
}

export async function addTemplate(
  store: TemplateStore,
  name: string | null = null,
  content?: Content,
): Promise<TemplateRecord> {
  const draft = await store.begin()
  await fill(draft, content)
  return draft.seal(machine, name, { signal: never() })
}

/** A signal that nobody aborts. */
export function never(): AbortSignal {
  return new AbortController().signal
}

/** The code that a promise is rejected with. */
export async function codeOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
  } catch (error) {
    return (error as { code?: unknown }).code ?? (error as Error).name
  }
  return 'resolved'
}

/** The code that a function throws. */
export function codeThrownBy(work: () => unknown): unknown {
  try {
    work()
  } catch (error) {
    return (error as { code?: unknown }).code ?? (error as Error).name
  }
  return 'returned'
}

/** Resolves when the signal is aborted. */
export async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, 'abort')
}
