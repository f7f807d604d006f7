import { Level } from 'level'
import { availableDiskBytes, saysDiskFull } from '../domain/disk-space.ts'
import { DiskFullError, type DroverError } from '../domain/errors.ts'
import type { DiskReserve } from './disk-reserve.ts'
import { AgentError } from './errors.ts'

/** Keys and values as LevelDB gets them: encoded, with the prefix of their sublevel. */
type Encoded = string | Uint8Array
type Operation = { type: 'put'; key: Encoded; value: Encoded } | { type: 'del'; key: Encoded }

/** What implementations of abstract-level override; its types leave that out. */
declare module 'level' {
  interface Level<KDefault = string, VDefault = string> {
    _open(options: object): Promise<void>
    _close(): Promise<void>
    _put(key: Encoded, value: Encoded, options: { sync?: boolean }): Promise<void>
    _del(key: Encoded, options: { sync?: boolean }): Promise<void>
    _batch(operations: Operation[], options: { sync?: boolean }): Promise<void>
    _get(key: Encoded, options: object): Promise<unknown>
    _getMany(keys: Encoded[], options: object): Promise<unknown[]>
    _iterator(options: object): object
  }
}

interface Resource {
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

interface Write extends PromiseWithResolvers<void> {
  operations: Operation[]
  isSynced: boolean
}

/**
 * With less than this left, only synced writes are tried, and a database that
 * must be opened again waits: its tables, see RESERVE_BYTES, could fill the
 * disk, and until it is open nothing can be read either.
 */
const LOW_WATER_BYTES = 4 * 1024 ** 2

/**
 * A LevelDB that a full disk does no lasting harm to.
 *
 * By itself (1.20, in node_modules/classic-level/deps; tried on a full tmpfs,
 * test/agent/database.test.ts shows it again):
 *
 * - A write that the disk has no room for fails, and leaves the half of it that
 *   did fit in the log. The database goes on to take writes as if nothing were:
 *   only a failed fsync and a failed compaction make it refuse them
 *   (db_impl.cc, DBImpl::Write, RecordBackgroundError), and then for good.
 * - Its log::Writer has counted the whole record (log_writer.cc,
 *   EmitPhysicalRecord), so from there on no block of the log begins where the
 *   reader looks for one. The reader drops each as a "checksum mismatch"
 *   (log_reader.cc, ReadPhysicalRecord), and the database opens without a
 *   complaint (paranoid_checks is off): 60 of 60 synced writes that were
 *   reported as done after one that failed were gone.
 * - On a full disk it closes, but it can't be opened unless its log is empty:
 *   it writes the log's records to a table first (RecoverLogFile).
 *
 * Therefore no write goes to a log after one that failed: the database is
 * opened again first, which ends that log, from its sound part. It stays open
 * for its holders meanwhile, sublevels too; an iterator that is open in that
 * moment ends with LEVEL_ITERATOR_NOT_OPEN. The reserve is given up for it, so
 * records are still written on a full disk, one write at a time.
 *
 * What is promised: a write that was reported as done is on disk if it was
 * synced. One that was reported as failed is not seen: what its keys held
 * before is written over whatever of it the log kept, before anything else is
 * written. Not promised: that it isn't on disk if the agent dies in between. A
 * failed fsync leaves a whole record behind. Then it is unknown, so whoever
 * acts on a failure must be able to live with either.
 */
export class AgentDatabase extends Level<string, unknown> {
  readonly #reserve: DiskReserve
  #options: object = {}
  #queue: Write[] = []
  /** Writes follow each other; those that wait go to disk together. */
  #turn: Promise<void> = Promise.resolve()
  /** What the keys of a failed write held before it; null while the log is sound. */
  #undo: Operation[] | null = null
  #isOpen = false
  /** While it is opened again. */
  #reopening: Promise<void> | null = null
  readonly #iterators = new Set<Resource>()

  constructor(components: { reserve: DiskReserve }, init: { path: string }) {
    super(init.path, { valueEncoding: 'json' })
    this.#reserve = components.reserve
  }

  override attachResource(resource: Resource): void {
    // The others are sublevels, which stay open.
    if ('next' in resource) this.#iterators.add(resource)
    super.attachResource(resource)
  }

  override detachResource(resource: Resource): void {
    this.#iterators.delete(resource)
    super.detachResource(resource)
  }

  override async _open(options: object): Promise<void> {
    await super._open(options)
    this.#options = options
    this.#isOpen = true
  }

  override async _close(): Promise<void> {
    await this.#turn
    await this.#reserve.stop()
    if (this.#isOpen) await super._close()
    this.#isOpen = false
  }

  override _put(key: Encoded, value: Encoded, { sync = false }: { sync?: boolean }): Promise<void> {
    return this.#write([{ type: 'put', key, value }], sync)
  }

  override _del(key: Encoded, { sync = false }: { sync?: boolean }): Promise<void> {
    return this.#write([{ type: 'del', key }], sync)
  }

  override _batch(operations: Operation[], { sync = false }: { sync?: boolean }): Promise<void> {
    return this.#write(operations, sync)
  }

  override async _get(key: Encoded, options: object): Promise<unknown> {
    while (!this.#isOpen) await this.#opened()
    return super._get(key, options)
  }

  override async _getMany(keys: Encoded[], options: object): Promise<unknown[]> {
    while (!this.#isOpen) await this.#opened()
    return super._getMany(keys, options)
  }

  override _iterator(options: object): object {
    if (!this.#isOpen) throw new DiskFullError(this.location)
    return super._iterator(options)
  }

  #write(operations: Operation[], isSynced: boolean): Promise<void> {
    const write: Write = { operations, isSynced, ...Promise.withResolvers<void>() }
    this.#queue.push(write)
    this.#turn = this.#turn.then(() => this.#commitQueued())
    return write.promise
  }

  /** All that waits, in one write; never rejects. */
  async #commitQueued(): Promise<void> {
    const waiting = this.#queue.splice(0)
    if (waiting.length === 0) return
    const isLow = this.#availableBytes() < LOW_WATER_BYTES
    const writes = waiting.filter(({ isSynced }) => isSynced || !isLow)
    try {
      if (writes.length > 0) {
        if (isLow) await this.#reserve.release()
        await this.#commit(
          writes.flatMap(({ operations }) => operations),
          writes.some(({ isSynced }) => isSynced),
        )
      }
      for (const { resolve } of writes) resolve()
    } catch (error) {
      for (const { reject } of writes) reject(error)
    }
    for (const { isSynced, reject } of waiting) {
      // What can be done without leaves the last bytes to what can't.
      if (!isSynced && isLow) reject(new DiskFullError(this.location))
    }
  }

  /** @throws DiskFullError; AgentError DATA_DIR_UNUSABLE for what is wrong with the disk else */
  async #commit(operations: Operation[], sync: boolean): Promise<void> {
    await this.#mend()
    try {
      return await super._batch(operations, { sync })
    } catch {
      await this.#distrust(operations)
    }
    await this.#mend()
    try {
      await super._batch(operations, { sync })
    } catch (again) {
      await this.#distrust(operations)
      throw this.#coded(again)
    }
  }

  /** The log has a piece of this write. What can be read hasn't: that is what the keys are to hold. */
  async #distrust(operations: Operation[]): Promise<void> {
    this.#undo = []
    const keys = operations.map(({ key }) => key)
    const values = (await super._getMany(keys, { keyEncoding: 'buffer', valueEncoding: 'buffer' })) as (
      | Uint8Array
      | undefined
    )[]
    this.#undo = keys.map((key, i) => {
      const value = values[i]
      return value === undefined ? { type: 'del', key } : { type: 'put', key, value }
    })
  }

  /** @throws DiskFullError when it can't be opened now */
  async #opened(): Promise<void> {
    await this.#reopening
    if (this.#isOpen) return
    this.#turn = this.#turn.then(() => this.#mend()).catch(() => {})
    await this.#turn
    if (!this.#isOpen) throw new DiskFullError(this.location)
  }

  /** After a failed write: a new log, and what the failed one may have left is undone. In its turn. */
  async #mend(): Promise<void> {
    if (this.#undo === null && this.#isOpen) return
    if (this.#availableBytes() < LOW_WATER_BYTES) await this.#reserve.release()
    if (this.#availableBytes() < LOW_WATER_BYTES) throw new DiskFullError(this.location)
    try {
      const reopening = this.#reopen()
      this.#reopening = reopening.catch(() => {})
      await reopening
      if (this.#undo !== null) await super._batch(this.#undo, { sync: true })
      this.#undo = null
    } catch (error) {
      throw this.#coded(error)
    } finally {
      this.#reopening = null
    }
  }

  async #reopen(): Promise<void> {
    if (this.#isOpen) {
      this.#isOpen = false
      await Promise.all([...this.#iterators].map((iterator) => iterator.close()))
      await super._close()
    }
    await super._open(this.#options)
    this.#isOpen = true
  }

  #availableBytes(): number {
    return availableDiskBytes(this.location) ?? Number.POSITIVE_INFINITY
  }

  #coded(cause: unknown): DroverError {
    if (isOutOfSpace(cause)) return new DiskFullError(this.location, { cause })
    const message = `can't write to ${this.location}: ${(cause as Error).message}`
    return new AgentError('DATA_DIR_UNUSABLE', message, { cause, details: { path: this.location } })
  }
}

/** LevelDB tells of errno in words alone (env_posix.cc, IOError). */
export function isOutOfSpace(error: unknown): boolean {
  return saysDiskFull((error as Error).message)
}
