import type { MigrationReport } from '../../src/domain/migration.ts'
import type { AgentUnderTest } from '../support/drover.ts'
import { GuestConsole } from '../support/guest-console.ts'
import { guestRamUse } from './guest-ram.ts'
import type { Link } from './network.ts'
import type { MoveResult } from './stock.ts'

/** Two agents on the two ends of a link, with one template on both. */
export interface Pair {
  source: AgentUnderTest
  destination: AgentUnderTest
  link: Link
  templateId: string
  /** The template's RAM file at the destination. */
  destinationRam: string
}

export interface Workload {
  name: string
  /** Gets the guest to work; returns when it does. */
  start(console: GuestConsole): Promise<void>
  /** Throws when the work did not survive. */
  check(console: GuestConsole): Promise<void>
}

interface VmShow {
  pid: number
  consoleSocket: string
}

/** Starts a clone, gets it to work, moves it with drover, checks it, and ends it. */
export async function droverMove(
  pair: Pair,
  workload: Workload,
): Promise<MoveResult & { report: MigrationReport }> {
  const name = `bench-${Math.random().toString(36).slice(2, 10)}`
  const { source, destination, link } = pair
  await source.json('vm', 'run', name, '--template', pair.templateId)
  await withConsole(await source.json<VmShow>('vm', 'show', name), (console) => workload.start(console))
  const before = await link.wireBytes()
  const report = await source.json<MigrationReport>('migrate', name, '--to', destination.name)
  const wireBytes = (await link.wireBytes()) - before
  const arrived = await destination.json<VmShow>('vm', 'show', name)
  await withConsole(arrived, (console) => workload.check(console))
  const { privateBytes } = await guestRamUse(arrived.pid, pair.destinationRam)
  await destination.json('vm', 'stop', name, '--force')
  await destination.json('vm', 'rm', name)
  return {
    totalMs: report.durationsMs.total,
    blackoutMs: report.durationsMs.blackout,
    wireBytes,
    destinationBytes: privateBytes,
    report,
  }
}

async function withConsole(vm: VmShow, use: (console: GuestConsole) => Promise<void>): Promise<void> {
  await using console = await GuestConsole.connect(vm.consoleSocket)
  await use(console)
}
