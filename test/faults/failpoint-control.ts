import { existsSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { MoveSide } from '../../src/migration/boundaries.ts'
import { ARMED, FAILPOINT_DIR, HIT } from './failpoints.ts'

const POLL_MS = 3

/** Where in a move an agent is held. */
export interface Failpoint {
  side: MoveSide
  boundary: string
  /** Of several passings the one that is meant; 1 is the first. */
  count?: number
}

/** The test's end of `failpoints.ts`, for one agent. */
export class FailpointControl {
  readonly #dir: string

  constructor(dir: string) {
    this.#dir = dir
  }

  /** Environment that loads the failpoints into the agent. */
  environment(): Record<string, string> {
    const module = fileURLToPath(new URL('failpoints.ts', import.meta.url))
    return { NODE_OPTIONS: `--import=${module}`, [FAILPOINT_DIR]: this.#dir }
  }

  /** The agent stops at the next passing of the boundary. */
  async arm({ side, boundary, count = 1 }: Failpoint): Promise<void> {
    await mkdir(this.#dir, { recursive: true })
    const draft = join(this.#dir, 'draft')
    await writeFile(draft, `${side}:${boundary} ${count}`)
    await rename(draft, join(this.#dir, ARMED))
  }

  /** @returns false when the signal came first */
  async hit(signal: AbortSignal): Promise<boolean> {
    while (!existsSync(join(this.#dir, HIT))) {
      if (signal.aborted) return false
      await sleep(POLL_MS)
    }
    return true
  }

  /** Lets a held agent go on, and disarms what it never came to. */
  async release(): Promise<void> {
    await rm(join(this.#dir, ARMED), { force: true })
    await rm(join(this.#dir, HIT), { force: true })
  }
}
