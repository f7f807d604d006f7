import { Turns } from '../domain/turns.ts'
import type { Database } from './database.ts'

const NAMES = ['draining', 'rebalancingPaused'] as const
type SwitchName = (typeof NAMES)[number]

/**
 * What people have switched on this node. On disk before it counts, so that
 * the next agent on the data directory goes by it, too.
 */
export class NodeSwitches {
  readonly #db: Database
  readonly #on: Set<SwitchName>
  readonly #turns = new Turns()

  private constructor(db: Database, on: Iterable<SwitchName>) {
    this.#db = db
    this.#on = new Set(on)
  }

  static async load(db: Database): Promise<NodeSwitches> {
    const values = await stored(db).getMany([...NAMES])
    return new NodeSwitches(
      db,
      NAMES.filter((_, i) => values[i] === true),
    )
  }

  isOn(name: SwitchName): boolean {
    return this.#on.has(name)
  }

  /** Of two who set it at the same time the later one counts. @returns whether it was otherwise before */
  set(name: SwitchName, isOn: boolean): Promise<boolean> {
    return this.#turns.run(async () => {
      if (this.#on.has(name) === isOn) return false
      // Synced: a full disk has a reserve for it then.
      await this.#db.batch([{ type: 'put', sublevel: stored(this.#db), key: name, value: isOn }], {
        sync: true,
      })
      if (isOn) this.#on.add(name)
      else this.#on.delete(name)
      return true
    })
  }
}

function stored(db: Database) {
  return db.sublevel<string, boolean>('switches', { valueEncoding: 'json' })
}
