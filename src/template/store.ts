import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises'
import { resolve as absolutePath, join } from 'node:path'
import type { Level } from 'level'
import {
  TEMPLATE_ID_PATTERN,
  type TemplateId,
  type TemplateManifest,
  type TemplateRecord,
} from '../domain/template.ts'
import { requireFreeBytes, syncPath } from './disk.ts'
import { type PlaceDraft, TemplateDraft } from './draft.ts'
import { TemplateError } from './errors.ts'
import { sealedFiles, type TemplateFiles } from './layout.ts'
import { loadTemplate } from './load.ts'
import { decodeManifest, templateId } from './manifest.ts'
import {
  checkName,
  type Labelled,
  nameTaken,
  notFound,
  requireNoOtherHolder,
  resolveReference,
} from './reference.ts'
import { SharedFetches } from './shared-fetches.ts'
import { type IndexEntry, TemplateIndex } from './template-index.ts'
import { type VerifyOptions, type VerifyResult, verifyTemplate } from './verify.ts'

const DRAFT_PREFIX = 'draft-'
const REMOVED_PREFIX = 'removed-'

export interface TemplateStoreComponents {
  /** The agent's database, open; the store keeps to its sublevel `templates`. */
  db: Level<string, unknown>
}

export interface TemplateStoreInit {
  /** Made if missing; everything in it belongs to the store. */
  dir: string
  /** Names of the VMs that need a template, those that are just being started or moved included. */
  inUseBy: (id: TemplateId) => readonly string[]
  /** Told after a template came or went, however that happened. */
  onChange?: () => void
}

/** A template whose files are not what they should be: neither cloned nor sent, kept for a person to look at. */
export interface DamagedTemplate {
  id: TemplateId
  names: string[]
  /** What `start` found. */
  error: TemplateError
}

interface Entry extends IndexEntry {
  manifest: TemplateManifest
  manifestBytes: Uint8Array
}

/**
 * Templates of this node.
 *
 *     DIR/draft-XXXXXX/   being made, removed by the next start
 *     DIR/TEMPLATE_ID/    sealed: ram state kernel [initrd] [disk] page-hashes manifest
 *     DIR/removed-XXXXXX/ on its way out, removed by the next start
 *
 * A template exists exactly while its directory has its id as its name: one
 * rename makes it, one rename ends it, and the files say what it is. The index
 * adds labels; without it templates lose their names, nothing else.
 */
export class TemplateStore {
  readonly dir: string
  /** Fetches from peers under way. */
  readonly fetches = new SharedFetches()
  readonly #index: TemplateIndex
  readonly #inUseBy: (id: TemplateId) => readonly string[]
  readonly #onChange: () => void
  readonly #entries = new Map<TemplateId, Entry>()
  readonly #damaged = new Map<TemplateId, DamagedTemplate>()
  readonly #reservedNames = new Set<string>()
  /** Changes follow each other: each sees what the one before it did. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(components: TemplateStoreComponents, init: TemplateStoreInit) {
    this.#index = new TemplateIndex(components.db)
    this.dir = absolutePath(init.dir)
    this.#inUseBy = init.inUseBy
    this.#onChange = init.onChange ?? (() => undefined)
  }

  /** Removes what a crash left half-made, and checks that each template has its files, by size. */
  async start(): Promise<void> {
    await mkdir(this.dir, { recursive: true, mode: 0o700 })
    const found = await readdir(this.dir)
    for (const name of found) {
      const isLeftover = name.startsWith(DRAFT_PREFIX) || name.startsWith(REMOVED_PREFIX)
      if (isLeftover) await rm(join(this.dir, name), { recursive: true, force: true })
    }
    const indexed = await this.#index.load()
    for (const id of found.filter((name) => TEMPLATE_ID_PATTERN.test(name))) {
      await this.#load(id, indexed.get(id))
      indexed.delete(id)
    }
    for (const id of indexed.keys()) await this.#index.delete(id)
  }

  /** Ends fetches and waits for changes under way. */
  async stop(): Promise<void> {
    await this.fetches.stop()
    await this.#turn
  }

  /** Oldest first. */
  list(): TemplateRecord[] {
    return [...this.#entries]
      .map(([id, entry]) => toRecord(id, entry))
      .sort((a, b) => a.createdAtMs - b.createdAtMs)
  }

  /** Templates that `start` found damaged. `remove` takes them, and a new template with the same content replaces them. */
  listDamaged(): DamagedTemplate[] {
    return [...this.#damaged.values()]
  }

  /**
   * @param ref - a name, an id, or the first 8 or more characters of an id
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_AMBIGUOUS, TEMPLATE_DAMAGED
   */
  resolve(ref: string): TemplateRecord {
    return this.get(resolveReference(ref, this.#labelled()))
  }

  has(id: TemplateId): boolean {
    return this.#entries.has(id)
  }

  /** @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED */
  get(id: TemplateId): TemplateRecord {
    return toRecord(id, this.#entry(id))
  }

  /**
   * Where the files of a template are. They are read-only for good.
   *
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED
   */
  files(id: TemplateId): TemplateFiles {
    return sealedFiles(this.#path(id), this.#entry(id).manifest)
  }

  /** @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED */
  manifestBytes(id: TemplateId): Uint8Array {
    return this.#entry(id).manifestBytes
  }

  /**
   * Gives a template one more label.
   *
   * @throws TemplateError NAME_TAKEN, NAME_INVALID, TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED
   */
  async name(id: TemplateId, name: string): Promise<void> {
    await this.#exclusive(async () => {
      this.requireNameFree(name, id)
      await this.#addName(id, this.#entry(id), name)
    })
  }

  /**
   * @param id - template that may have the name already, or null
   * @throws TemplateError NAME_INVALID, NAME_TAKEN
   */
  requireNameFree(name: string, id: TemplateId | null): void {
    checkName(name)
    requireNoOtherHolder(name, id, this.#labelled())
    if (this.#reservedNames.has(name)) throw nameTaken(name, 'is taken by a template that is being created')
  }

  /**
   * Keeps a name for a template that takes a while to make, until disposed.
   *
   * @throws TemplateError NAME_INVALID, NAME_TAKEN
   */
  reserveName(name: string): Disposable {
    this.requireNameFree(name, null)
    this.#reservedNames.add(name)
    return { [Symbol.dispose]: () => void this.#reservedNames.delete(name) }
  }

  /** @throws TemplateError NOT_ENOUGH_DISK */
  async requireFreeBytes(bytes: number): Promise<void> {
    await requireFreeBytes(this.dir, bytes)
  }

  /** An empty draft: to be sealed, or discarded. */
  async begin(): Promise<TemplateDraft> {
    return new TemplateDraft({ place: this.#place }, { dir: await mkdtemp(join(this.dir, DRAFT_PREFIX)) })
  }

  /**
   * Reads all of a template and compares it with its hashes. Changes nothing.
   *
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED
   */
  async verify(id: TemplateId, options: VerifyOptions): Promise<VerifyResult> {
    const { manifest, manifestBytes } = this.#entry(id)
    return verifyTemplate({ files: this.files(id), manifest, manifestBytes }, options)
  }

  /**
   * Removes a template with all of its names. Transfers under way still end well: they hold the files open.
   *
   * @param ref - as for `resolve`; a damaged template too
   * @throws TemplateError TEMPLATE_IN_USE, TEMPLATE_NOT_FOUND, TEMPLATE_AMBIGUOUS
   */
  async remove(ref: string): Promise<void> {
    await this.#exclusive(async () => {
      const id = resolveReference(ref, this.#labelled())
      const vms = [...this.#inUseBy(id)]
      if (vms.length > 0) {
        const message = `template ${ref} is in use by ${vms.join(', ')}: stop and remove them, or move them away`
        throw new TemplateError('TEMPLATE_IN_USE', message, { details: { id, vms } })
      }
      const entry = this.#entries.get(id)
      // Before anything is awaited: no VM can start on it from here on.
      this.#entries.delete(id)
      const removed = await this.#moveAside(id).catch((error: unknown) => {
        if (entry !== undefined) this.#entries.set(id, entry)
        throw error
      })
      this.#damaged.delete(id)
      this.#onChange()
      await this.#index.delete(id)
      await rm(removed, { recursive: true, force: true })
    })
  }

  readonly #place: PlaceDraft = (draft, { manifestBytes, name }) =>
    this.#exclusive(async () => {
      const id = templateId(manifestBytes)
      if (name !== null) requireNoOtherHolder(name, id, this.#labelled())
      const existing = this.#entries.get(id)
      if (existing !== undefined) {
        await draft.discard()
        if (name !== null) await this.#addName(id, existing, name)
        return toRecord(id, existing)
      }
      const damaged = this.#damaged.get(id)
      const leftover = damaged === undefined ? null : await this.#moveAside(id)
      await rename(draft.dir, this.#path(id))
      await syncPath(this.dir)
      const manifest = decodeManifest(manifestBytes)
      const entry: Entry = { names: damaged?.names ?? [], createdAtMs: Date.now(), manifest, manifestBytes }
      this.#entries.set(id, entry)
      this.#damaged.delete(id)
      this.#onChange()
      await this.#addName(id, entry, name)
      if (leftover !== null) await rm(leftover, { recursive: true, force: true })
      return toRecord(id, entry)
    })

  async #load(id: TemplateId, indexed: IndexEntry | undefined): Promise<void> {
    const names = indexed?.names ?? []
    try {
      const { sealedAtMs, ...loaded } = await loadTemplate(this.#path(id), id)
      this.#entries.set(id, { ...loaded, names, createdAtMs: indexed?.createdAtMs ?? sealedAtMs })
    } catch (error) {
      if (!(error instanceof TemplateError)) throw error
      this.#damaged.set(id, { id, names, error })
    }
  }

  /** Index first, then memory: a name that can be seen is on disk. */
  async #addName(id: TemplateId, entry: Entry, name: string | null): Promise<void> {
    const names = name === null || entry.names.includes(name) ? entry.names : [...entry.names, name]
    await this.#index.put(id, { names, createdAtMs: entry.createdAtMs })
    entry.names = names
  }

  /** From here on the template doesn't exist, whatever happens. */
  async #moveAside(id: TemplateId): Promise<string> {
    const aside = await mkdtemp(join(this.dir, REMOVED_PREFIX))
    await rename(this.#path(id), aside)
    await syncPath(this.dir)
    return aside
  }

  #entry(id: TemplateId): Entry {
    const entry = this.#entries.get(id)
    if (entry !== undefined) return entry
    throw this.#damaged.get(id)?.error ?? notFound(id)
  }

  #labelled(): Labelled[] {
    return [...this.list(), ...this.#damaged.values()]
  }

  #path(id: TemplateId): string {
    return join(this.dir, id)
  }

  #exclusive<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(change)
    this.#turn = result.catch(() => {})
    return result
  }
}

function toRecord(id: TemplateId, { names, manifest, createdAtMs }: Entry): TemplateRecord {
  return { id, names: [...names], manifest, createdAtMs }
}
