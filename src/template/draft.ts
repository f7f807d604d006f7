import { open, rm, stat, writeFile } from 'node:fs/promises'
import type { MachineSpec, TemplateFile, TemplateManifest, TemplateRecord } from '../domain/template.ts'
import { TemplateContent } from './content.ts'
import { sealFile, syncPath } from './disk.ts'
import { TemplateError } from './errors.ts'
import { writeFully } from './file-bytes.ts'
import { CHUNK_HASHES_BYTES, chunkHash, hashPages } from './hashing.ts'
import {
  countChunks,
  type DraftFiles,
  draftFiles,
  partSpans,
  sealedFiles,
  type TemplateExtent,
} from './layout.ts'
import { encodeManifest } from './manifest.ts'

/** Moves a finished draft to its place in the store. */
export type PlaceDraft = (
  draft: TemplateDraft,
  template: { manifestBytes: Uint8Array; name: string | null },
) => Promise<TemplateRecord>

/**
 * A template that is being made: a private directory in the store, invisible
 * until it is sealed. One that isn't sealed is to be discarded; `await using`
 * does that, and the next start of the store removes what a crash left.
 */
export class TemplateDraft {
  readonly dir: string
  /** Where its files belong. Those that the template doesn't have are never made. */
  readonly files: DraftFiles
  readonly #place: PlaceDraft

  constructor(components: { place: PlaceDraft }, init: { dir: string }) {
    this.#place = components.place
    this.dir = init.dir
    this.files = draftFiles(init.dir)
  }

  /**
   * Names the draft by what its files hold now, and puts it into the store.
   * Nothing may write to them any more. RAM, state and kernel must be there;
   * initrd and disk are part of the template when they are.
   *
   * @param name - label to give it, reserved by the caller, or null
   * @returns the record of the template: of the one that is there already if its content is the same
   * @throws TemplateError TEMPLATE_INCOMPLETE, NAME_TAKEN, MANIFEST_MALFORMED
   */
  async seal(
    machine: MachineSpec,
    name: string | null,
    options: { signal: AbortSignal },
  ): Promise<TemplateRecord> {
    await this.#requireFiles(machine)
    const extent: TemplateExtent = { machine, sizes: await this.#sizes() }
    const manifest: TemplateManifest = { ...extent, chunkHashes: await this.#hash(extent, options.signal) }
    return this.sealAs(manifest, name, options)
  }

  /**
   * The same for a draft whose files, page hashes included, are known to be what the manifest says.
   *
   * @throws TemplateError NAME_TAKEN
   */
  async sealAs(
    manifest: TemplateManifest,
    name: string | null,
    { signal }: { signal: AbortSignal },
  ): Promise<TemplateRecord> {
    const manifestBytes = encodeManifest(manifest)
    const { dir, ...paths } = sealedFiles(this.dir, manifest)
    await writeFile(paths.manifest, manifestBytes)
    for (const path of Object.values(paths)) {
      signal.throwIfAborted()
      if (path !== null) await sealFile(path)
    }
    await syncPath(dir)
    signal.throwIfAborted()
    return this.#place(this, { manifestBytes, name })
  }

  /** Removes the draft; does nothing once it is sealed. */
  async discard(): Promise<void> {
    await rm(this.dir, { recursive: true, force: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.discard()
  }

  async #requireFiles(machine: MachineSpec): Promise<void> {
    for (const file of ['ram', 'state', 'kernel'] as const) {
      if ((await sizeOf(this.files[file])) === 0) {
        throw new TemplateError('TEMPLATE_INCOMPLETE', `the template has no ${file} file`, {
          details: { file },
        })
      }
    }
    const { size } = await stat(this.files.ram)
    if (size === machine.memoryBytes) return
    throw new TemplateError(
      'TEMPLATE_INCOMPLETE',
      `the RAM file has ${size} bytes, the machine ${machine.memoryBytes} bytes of memory`,
      { details: { file: 'ram', sizeBytes: size, memoryBytes: machine.memoryBytes } },
    )
  }

  async #sizes(): Promise<Record<TemplateFile, number>> {
    const { state, kernel, initrd, disk } = this.files
    return {
      state: await sizeOf(state),
      kernel: await sizeOf(kernel),
      initrd: await sizeOf(initrd),
      disk: await sizeOf(disk),
    }
  }

  /** Chunk hashes of all files; their page hashes go to a file of their own. */
  async #hash(extent: TemplateExtent, signal: AbortSignal): Promise<Uint8Array[]> {
    await using content = await TemplateContent.open(this.files, partSpans(extent))
    await using pageHashesFile = await open(this.files.pageHashes, 'w')
    const chunkHashes: Uint8Array[] = []
    const chunks = Array.from({ length: countChunks(extent) }, (_, chunk) => chunk)
    for await (const { chunk, bytes } of content.read(chunks, signal)) {
      const pageHashes = hashPages(bytes)
      chunkHashes.push(chunkHash(pageHashes))
      await writeFully(pageHashesFile, pageHashes, chunk * CHUNK_HASHES_BYTES)
    }
    return chunkHashes
  }
}

/** 0 when there is no such file. */
async function sizeOf(path: string): Promise<number> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  return found?.isFile() ? found.size : 0
}
