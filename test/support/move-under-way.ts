import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect } from 'vitest'
import type { MigrationReply } from '../../src/agent/api-schema.ts'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { type AgentUnderTest, LAUNCHER } from './drover.ts'

/** So slow that a guest with tens of MiB of its own is on its way for many seconds. */
export const SLOW = ['--max-bandwidth', '50Mbit'] as const

const REACH_TIMEOUT_MS = 30_000
const POLL_MS = 100

export interface MoveEnd {
  /** Exit code of `drover migrate`. */
  code: number
  stdout: string
  stderr: string
}

/** A `drover migrate` in the middle of its work. */
export class MoveUnderWay {
  readonly migrationId: string
  readonly ended: Promise<MoveEnd>
  readonly #kill: (signal: NodeJS.Signals) => void

  private constructor(
    migrationId: string,
    init: { ended: Promise<MoveEnd>; kill: (signal: NodeJS.Signals) => void },
  ) {
    this.migrationId = migrationId
    this.ended = init.ended
    this.#kill = init.kill
  }

  /**
   * Starts a move and waits until it is as far as `reached` asks.
   *
   * @param args - of `drover migrate`, `--json` aside
   */
  static async start(
    agent: AgentUnderTest,
    args: readonly string[],
    reached: (move: MigrationReply) => boolean,
  ): Promise<MoveUnderWay> {
    const before = new Set((await moves(agent)).map(({ migrationId }) => migrationId))
    const child = spawn(
      process.execPath,
      [LAUNCHER, '--socket', agent.socket, 'migrate', ...args, '--json'],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    const output = (stream: typeof child.stdout) =>
      stream
        .setEncoding('utf8')
        .toArray()
        .then((texts) => texts.join(''))
    const ended = Promise.all([once(child, 'close'), output(child.stdout), output(child.stderr)]).then(
      ([[code], stdout, stderr]) => ({ code: code ?? -1, stdout, stderr }),
    )
    const kill = (signal: NodeJS.Signals): void => void child.kill(signal)
    const deadlineMs = performance.now() + REACH_TIMEOUT_MS
    for (;;) {
      const found = (await moves(agent)).find(({ migrationId }) => !before.has(migrationId))
      if (found?.running && reached(found)) return new MoveUnderWay(found.migrationId, { ended, kill })
      const isLost = found?.running === false || child.exitCode !== null || performance.now() > deadlineMs
      if (!isLost) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS))
        continue
      }
      kill('SIGKILL')
      throw new Error(`the move never got there: ${JSON.stringify(found)} ${JSON.stringify(await ended)}`)
    }
  }

  /** As Ctrl-C does. */
  interrupt(): void {
    this.#kill('SIGINT')
  }

  /** Its end, with the report that `drover migrate` printed. */
  async report(): Promise<{ code: number; report: MigrationReport }> {
    const { code, stdout, stderr } = await this.ended
    expect(stdout, stderr).toMatch(/^\{/)
    return { code, report: JSON.parse(stdout) as MigrationReport }
  }
}

/** In a round: so many pages are on their way. */
export function inRounds(pagesSent: number): (move: MigrationReply) => boolean {
  return ({ pages }) => pages.sent >= pagesSent
}

async function moves(agent: AgentUnderTest): Promise<MigrationReply[]> {
  return (await agent.json<{ migrations: MigrationReply[] }>('migration', 'ls')).migrations
}
