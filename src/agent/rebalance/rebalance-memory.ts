import { steadyNowMs } from '../../domain/clock.ts'
import { Turns } from '../../domain/turns.ts'
import {
  afterFailure,
  afterSuccess,
  type BackOff,
  type BackOffs,
  BUDGET_MS,
  recalledBackOffs,
} from '../../placement/index.ts'
import type { Database } from '../database.ts'

const KEY = 'past'

/** As it lies on disk. */
interface Past {
  startedAtMs: readonly number[]
  backOffs: [string, BackOff][]
}

/**
 * What the rebalancer goes by of its past: its moves of the last hour, and what
 * failed. On disk, so that an agent that is started again and again moves VMs no
 * more often than one that runs. What a full disk refuses is written with the next.
 */
export class RebalanceMemory {
  readonly #db: Database
  readonly #turns = new Turns()
  #startedAtMs: readonly number[]
  #backOffs: BackOffs

  private constructor(db: Database, { startedAtMs, backOffs }: Past, nowMs: number) {
    this.#db = db
    // A clock that was set back since would make them count for longer.
    this.#startedAtMs = startedAtMs.filter((atMs) => atMs <= nowMs)
    this.#backOffs = recalledBackOffs(new Map(backOffs), nowMs)
  }

  static async load(db: Database): Promise<RebalanceMemory> {
    return new RebalanceMemory(
      db,
      (await stored(db).get(KEY)) ?? { startedAtMs: [], backOffs: [] },
      steadyNowMs(),
    )
  }

  /** When moves of the last hour began. */
  startedAtMs(nowMs: number): readonly number[] {
    this.#startedAtMs = this.#startedAtMs.filter((atMs) => atMs > nowMs - BUDGET_MS)
    return this.#startedAtMs
  }

  get backOffs(): BackOffs {
    return this.#backOffs
  }

  /** A move begins. Counts at once; resolves when it is written, as all that follow. Never rejects. */
  started(atMs: number): Promise<void> {
    this.#startedAtMs = [...this.#startedAtMs, atMs]
    return this.#write()
  }

  /** @see afterFailure */
  failed(ids: readonly string[], nowMs: number, random: () => number): Promise<void> {
    this.#backOffs = afterFailure(this.#backOffs, ids, nowMs, random)
    return this.#write()
  }

  /** @see afterSuccess */
  succeeded(ids: readonly string[]): Promise<void> {
    this.#backOffs = afterSuccess(this.#backOffs, ids)
    return this.#write()
  }

  async #write(): Promise<void> {
    const write = () =>
      stored(this.#db).put(KEY, { startedAtMs: this.#startedAtMs, backOffs: [...this.#backOffs] })
    await this.#turns.run(write).catch(() => {})
  }
}

function stored(db: Database) {
  return db.sublevel<string, Past>('rebalance', { valueEncoding: 'json' })
}
