import { randomUUID } from 'node:crypto'
import { statSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { resolve as absolutePath, join } from 'node:path'
import type { Level } from 'level'
import { DiskFullError } from '../domain/errors.ts'
import {
  TEMPLATE_ID_PATTERN,
  type TemplateId,
  type TemplateManifest,
  type TemplateRecord,
} from '../domain/template.ts'
import {
  DRAFT_FILE_MODE,
  directoryBytes,
  requireFreeBytes,
  STAT_BLOCK_BYTES,
  sealFile,
  syncPath,
} from './disk.ts'
import { type PlaceDraft, TemplateDraft } from './draft.ts'
import { TemplateError } from './errors.ts'
import { chooseForRemoval } from './gc.ts'
import { draftFiles, sealedFiles, type TemplateFiles } from './layout.ts'
import { loadTemplate } from './load.ts'
import { decodeManifest, templateId } from './manifest.ts'
import { PageIndex } from './page-index.ts'
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
const FETCH_PREFIX = 'fetch-'
/** What an interrupted fetch has got is kept so long for the next one. */
const KEEP_FETCHED_MS = 7 * 24 * 3600 * 1000

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
  /** Called where the disk is too full for what is about to be written. @returns whether some of it was freed */
  onDiskShort?: () => boolean
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
 *     DIR/fetch-ID/       being fetched: the next fetch goes on with what is there
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
  /** Finds a page in any template of this node. */
  readonly pageIndex: PageIndex
  readonly #index: TemplateIndex
  readonly #inUseBy: (id: TemplateId) => readonly string[]
  readonly #onChange: () => void
  readonly #onDiskShort: () => boolean
  readonly #entries = new Map<TemplateId, Entry>()
  readonly #damaged = new Map<TemplateId, DamagedTemplate>()
  readonly #reservedNames = new Set<string>()
  #promisedBytes = 0
  /** Changes follow each other: each sees what the one before it did. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(components: TemplateStoreComponents, init: TemplateStoreInit) {
    this.#index = new TemplateIndex(components.db)
    this.pageIndex = new PageIndex(components)
    this.dir = absolutePath(init.dir)
    this.#inUseBy = init.inUseBy
    this.#onChange = init.onChange ?? (() => undefined)
    this.#onDiskShort = init.onDiskShort ?? (() => false)
  }

  /** Removes what a crash left half-made, and checks that each template has its files, by size. */
  async start(): Promise<void> {
    await mkdir(this.dir, { recursive: true, mode: 0o700 })
    const found = await readdir(this.dir)
    for (const name of found) {
      const isLeftover = name.startsWith(DRAFT_PREFIX) || name.startsWith(REMOVED_PREFIX)
      if (isLeftover || (await this.#isOldFetch(name))) {
        await rm(join(this.dir, name), { recursive: true, force: true })
      }
    }
    const indexed = await this.#index.load()
    for (const id of found.filter((name) => TEMPLATE_ID_PATTERN.test(name))) {
      await this.#load(id, indexed.get(id))
      indexed.delete(id)
    }
    for (const id of indexed.keys()) await this.#index.delete(id)
    this.pageIndex.reconcile([...this.#entries.keys()].map((id) => this.#indexable(id)))
  }

  /** Ends fetches and waits for changes under way. */
  async stop(): Promise<void> {
    await this.fetches.stop()
    await this.#turn
    await this.pageIndex.settled()
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

  /**
   * As `resolve`, and finds damaged ones too.
   *
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_AMBIGUOUS
   */
  find(ref: string): { id: TemplateId; names: string[] } {
    const id = resolveReference(ref, this.#labelled())
    const { names } = this.#entries.get(id) ?? this.#damaged.get(id)!
    return { id, names: [...names] }
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

  /**
   * What the RAM of a template takes in memory at the most, in bytes. Its file is
   * sparse: what is allocated counts. Where somebody has deleted it under its VMs, all of it.
   *
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED
   */
  ramBytes(id: TemplateId): number {
    const file = statSync(this.files(id).ram, { throwIfNoEntry: false })
    return file === undefined ? this.get(id).manifest.machine.memoryBytes : file.blocks * STAT_BLOCK_BYTES
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

  /**
   * Whether there is room for so much beside what is promised, and a margin. Doesn't wait.
   *
   * @throws DiskFullError
   */
  requireFreeBytes(bytes: number): void {
    try {
      requireFreeBytes(this.dir, bytes, this.#promisedBytes)
    } catch (error) {
      if (!(error instanceof DiskFullError) || !this.#onDiskShort()) throw error
      requireFreeBytes(this.dir, bytes, this.#promisedBytes)
    }
  }

  /**
   * Keeps disk space for something that takes a while to write, until disposed.
   *
   * @throws DiskFullError
   */
  reserveBytes(bytes: number): Disposable {
    this.requireFreeBytes(bytes)
    this.#promisedBytes += bytes
    return {
      [Symbol.dispose]: () => {
        this.#promisedBytes -= bytes
      },
    }
  }

  /** An empty draft: to be sealed, or discarded. */
  async begin(): Promise<TemplateDraft> {
    return new TemplateDraft({ place: this.#place }, { dir: await mkdtemp(join(this.dir, DRAFT_PREFIX)) })
  }

  /**
   * The draft of a template that is being fetched, with what an earlier fetch has left in it. It stays when this one
   * fails too, unless it is discarded.
   */
  async beginFetch(id: TemplateId): Promise<TemplateDraft> {
    const dir = join(this.dir, `${FETCH_PREFIX}${id}`)
    // A collection doesn't take it for a remainder then.
    await this.#exclusive(() => mkdir(dir, { recursive: true, mode: 0o700 }))
    // One that ended while it was sealed, or reflinked, has left read-only files.
    for (const name of await readdir(dir)) await chmod(join(dir, name), DRAFT_FILE_MODE)
    return new TemplateDraft({ place: this.#place }, { dir })
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
   * Writes a template's manifest anew, should its file be damaged.
   *
   * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED
   */
  async rewriteManifest(id: TemplateId): Promise<void> {
    const { manifestBytes } = this.#entry(id)
    const { manifest: path } = this.files(id)
    const present = await readFile(path).catch(() => null)
    if (present?.equals(manifestBytes)) return
    await writeFile(`${path}.new`, manifestBytes)
    await sealFile(`${path}.new`)
    await rename(`${path}.new`, path)
    await syncPath(this.#path(id))
  }

  /** Remembers that a VM starts or arrives on it: what is used stays longest when there is no room for all. */
  async used(id: TemplateId): Promise<void> {
    const entry = this.#entries.get(id)
    if (entry === undefined) return
    entry.usedAtMs = Date.now()
    await this.#index.put(id, indexEntry(entry))
  }

  /** Those that a VM ran from or arrived on last, and those that came last, in front. */
  byUse(): TemplateRecord[] {
    const entries = [...this.#entries].toSorted(([, a], [, b]) => b.usedAtMs - a.usedAtMs)
    return entries.map(([id, entry]) => toRecord(id, entry))
  }

  /** What all templates take on disk, shared blocks counted for each. */
  async diskBytes(): Promise<number> {
    return (await this.#measured()).reduce((sum, { bytes }) => sum + (bytes ?? 0), 0)
  }

  /** Null: it was removed meanwhile. */
  #measured(): Promise<{ id: TemplateId; bytes: number | null }[]> {
    return Promise.all(
      this.list().map(async ({ id }) => ({
        id,
        bytes: await directoryBytes(this.#path(id)).catch(goneIsNull),
      })),
    )
  }

  /**
   * Removes what interrupted fetches left, and with a limit as many templates as it takes for the others to fit, the
   * least useful first, never one in use.
   *
   * @param options.limitBytes - null: no template is removed
   * @param options.isElsewhere - whether another node is known to have a template
   * @param options.spareNewest - keep the one that was used last, or came last, whatever the limit
   * @returns what was removed, and how much the templates take that stay
   */
  async gc(options: {
    limitBytes: number | null
    isElsewhere: (id: TemplateId) => boolean
    spareNewest: boolean
  }): Promise<{
    removed: { record: TemplateRecord; bytes: number }[]
    keptBytes: number
    partialBytes: number
  }> {
    const partialBytes = await this.#removePartial()
    const newest = options.spareNewest ? this.#newest() : null
    const measured = await this.#measured()
    // What was removed meanwhile is no candidate.
    const candidates = measured.flatMap(({ id, bytes }) => {
      const entry = this.#entries.get(id)
      if (bytes === null || entry === undefined) return []
      const isInUse = id === newest || this.#inUseBy(id).length > 0
      return [{ id, bytes, usedAtMs: entry.usedAtMs, isElsewhere: options.isElsewhere(id), isInUse }]
    })
    const removed: { record: TemplateRecord; bytes: number }[] = []
    const limitBytes = options.limitBytes ?? Number.POSITIVE_INFINITY
    for (const id of chooseForRemoval(candidates, limitBytes)) {
      try {
        const record = this.get(id)
        await this.remove(id)
        removed.push({ record, bytes: candidates.find((candidate) => candidate.id === id)!.bytes })
      } catch (error) {
        // A VM has started on it meanwhile, or somebody else has removed it.
        if (!(error instanceof TemplateError)) throw error
      }
    }
    const total = candidates.reduce((sum, { bytes }) => sum + bytes, 0)
    return { removed, keptBytes: removed.reduce((sum, { bytes }) => sum - bytes, total), partialBytes }
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
      // A full disk may refuse it, and what frees space must not wait for space: the next start does it then.
      await this.#index.delete(id).catch(() => {})
      this.pageIndex.remove(
        id,
        [...this.#entries.keys()].map((other) => this.#indexable(other)),
      )
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
      const manifest = decodeManifest(manifestBytes)
      const nowMs = Date.now()
      const times = { createdAtMs: nowMs, usedAtMs: nowMs }
      const entry: Entry = { names: damaged?.names ?? [], ...times, manifest, manifestBytes }
      // First, so that a disk which refuses it leaves nothing; an entry without a template is the next start's to end.
      await this.#addName(id, entry, name)
      const leftover = damaged === undefined ? null : await this.#moveAside(id)
      await rename(draft.dir, this.#path(id))
      await syncPath(this.dir)
      this.#entries.set(id, entry)
      this.#damaged.delete(id)
      this.pageIndex.add(id, this.#indexable(id).pageHashesPath)
      this.#onChange()
      if (leftover !== null) await rm(leftover, { recursive: true, force: true })
      return toRecord(id, entry)
    })

  async #load(id: TemplateId, indexed: IndexEntry | undefined): Promise<void> {
    const names = indexed?.names ?? []
    try {
      const { sealedAtMs, ...loaded } = await loadTemplate(this.#path(id), id)
      const createdAtMs = indexed?.createdAtMs ?? sealedAtMs
      const usedAtMs = indexed?.usedAtMs ?? createdAtMs
      this.#entries.set(id, { ...loaded, names, createdAtMs, usedAtMs })
    } catch (error) {
      if (!(error instanceof TemplateError)) throw error
      this.#damaged.set(id, { id, names, error })
    }
  }

  /** Index first, then memory: a name that can be seen is on disk. */
  async #addName(id: TemplateId, entry: Entry, name: string | null): Promise<void> {
    const names = name === null || entry.names.includes(name) ? entry.names : [...entry.names, name]
    await this.#index.put(id, indexEntry({ ...entry, names }))
    entry.names = names
  }

  #newest(): TemplateId | null {
    const [newest] = [...this.#entries].toSorted(([, a], [, b]) => b.usedAtMs - a.usedAtMs)
    return newest?.[0] ?? null
  }

  /** @returns how much the remains of interrupted fetches took */
  async #removePartial(): Promise<number> {
    let bytes = 0
    for (const name of await readdir(this.dir)) {
      if (!name.startsWith(FETCH_PREFIX)) continue
      // Out of the way at once: a fetch that starts now begins anew.
      const aside = await this.#exclusive(async () =>
        this.fetches.has(name.slice(FETCH_PREFIX.length)) ? null : this.#moveAside(name).catch(goneIsNull),
      )
      if (aside === null) continue
      bytes += await directoryBytes(aside)
      await rm(aside, { recursive: true, force: true })
    }
    return bytes
  }

  async #isOldFetch(name: string): Promise<boolean> {
    if (!name.startsWith(FETCH_PREFIX)) return false
    const { mtimeMs } = await stat(join(this.dir, name))
    return Date.now() - mtimeMs > KEEP_FETCHED_MS
  }

  #indexable(id: TemplateId): { id: TemplateId; pageHashesPath: string } {
    return { id, pageHashesPath: draftFiles(this.#path(id)).pageHashes }
  }

  /** From here on the template doesn't exist, whatever happens. */
  async #moveAside(name: string): Promise<string> {
    // Renamed without a new directory: a full disk has no room for that.
    const aside = join(this.dir, `${REMOVED_PREFIX}${randomUUID()}`)
    await rename(join(this.dir, name), aside)
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

function indexEntry({ names, createdAtMs, usedAtMs }: IndexEntry): IndexEntry {
  return { names, createdAtMs, usedAtMs }
}

function toRecord(id: TemplateId, { names, manifest, createdAtMs }: Entry): TemplateRecord {
  return { id, names: [...names], manifest, createdAtMs }
}

function goneIsNull(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null
  throw error
}
