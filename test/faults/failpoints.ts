/**
 * Holds an agent where a test wants it held. Loaded into an agent under test
 * before its own code (`NODE_OPTIONS=--import=...`), so that nothing of it is
 * in the product: it listens where the agent tells of a move's boundaries.
 *
 * The directory FAILPOINT_DIR speaks for the test:
 *
 *     armed      written by the test: `SIDE:BOUNDARY COUNT`, the COUNTth passing is meant
 *     hit        `armed`, renamed here when it was passed; the agent stands still until the test removes it
 *
 * The event loop stands still with the agent: nothing is sent, read or timed
 * out meanwhile, so whatever the test does then happens between two phases.
 */
import { subscribe } from 'node:diagnostics_channel'
import { existsSync, readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { type BoundaryPassed, MOVE_BOUNDARY_CHANNEL } from '../../src/migration/boundaries.ts'

export const FAILPOINT_DIR = 'DROVER_FAILPOINT_DIR'
export const ARMED = 'armed'
export const HIT = 'hit'

/** How often a held agent looks whether it may go on. */
const HELD_POLL_MS = 2

const dir = process.env[FAILPOINT_DIR]
if (dir !== undefined) {
  const armedPath = join(dir, ARMED)
  const hitPath = join(dir, HIT)
  let passed = 0
  subscribe(MOVE_BOUNDARY_CHANNEL, (message) => {
    const { side, boundary } = message as BoundaryPassed
    const armed = readArmed(armedPath)
    if (armed?.at !== `${side}:${boundary}`) return
    passed++
    if (passed < armed.count) return
    passed = 0
    renameSync(armedPath, hitPath)
    const never = new Int32Array(new SharedArrayBuffer(4))
    while (existsSync(hitPath)) Atomics.wait(never, 0, 0, HELD_POLL_MS)
  })
}

function readArmed(path: string): { at: string; count: number } | null {
  try {
    const [at = '', count] = readFileSync(path, 'utf8').split(' ')
    return { at, count: Number(count) }
  } catch {
    // Nothing is armed: by far the usual case.
    return null
  }
}
