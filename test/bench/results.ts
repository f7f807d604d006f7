/** What a run of the benchmark found: the JSON file that it writes, and that the README's table is made from. */
import { readFile } from 'node:fs/promises'
import { cpus, release, totalmem } from 'node:os'
import type { MigrationReport } from '../../src/domain/migration.ts'
import type { Limit, LinkRate, Unavoidable } from './limit.ts'
import type { MultifdCompression } from './stock.ts'
import { median } from './table.ts'

/** Of one move, or of all moves of a herd: the whole time, the longest blackout, sums of the rest. */
export interface MoveResult {
  totalMs: number
  blackoutMs: number
  /** At the interface, both ways, headers included. */
  wireBytes: number
  /** What the VM costs the destination in guest memory, beside a template that is there anyway. */
  destinationBytes: number
}

/** What drover itself says of a move, without the names of who took part. */
export type DroverDetails = Pick<MigrationReport, 'durationsMs' | 'bytes' | 'pages' | 'rounds'>

export interface Run {
  drover: MoveResult
  details: DroverDetails[]
  unavoidable: Unavoidable | null
  limit: Limit | null
  /** QEMU with its defaults. */
  stock: MoveResult | null
  /** QEMU with multifd and compression. */
  stockMultifd: MoveResult | null
}

export type Unit = 'ms' | 'bytes' | '×' | ''

/** One promise, held against the medians. */
export interface Target {
  what: string
  measured: number
  relation: '≤' | '≥'
  bound: number
  unit: Unit
  met: boolean
}

export interface Row {
  scenario: number
  title: string
  link: LinkRate
  runs: Run[]
  /** Medians of the runs. */
  drover: MoveResult
  stock: MoveResult | null
  stockMultifd: MoveResult | null
  limit: Limit | null
  /** drover beyond the limit; null where there is none. */
  distance: { ms: number; bytes: number } | null
  targets: Target[]
  /** What else there is to say, such as why a move ended. */
  notes: string[]
}

export interface Machine {
  cpu: string
  cores: number
  memoryBytes: number
  kernel: string
  qemu: string
  accelerator: string
  node: string
}

export interface BenchResults {
  drover: string
  date: string
  machine: Machine
  /** How stock QEMU compresses in its second column. */
  multifdCompression: MultifdCompression
  repeats: number
  rows: Row[]
}

export function describeMachine(qemu: { version: string; accelerator: string }): Machine {
  return {
    cpu: cpus()[0]!.model,
    cores: cpus().length,
    memoryBytes: totalmem(),
    kernel: release(),
    qemu: qemu.version,
    accelerator: qemu.accelerator,
    node: process.versions.node,
  }
}

/** @returns the promise as kept or broken; a bound of 1.1 × something is given multiplied out */
export function target(
  what: string,
  measured: number,
  relation: '≤' | '≥',
  bound: number,
  unit: Unit,
): Target {
  return {
    what,
    measured,
    relation,
    bound,
    unit,
    met: relation === '≤' ? measured <= bound : measured >= bound,
  }
}

export function medianResult(results: readonly MoveResult[]): MoveResult {
  const of = (key: keyof MoveResult) => median(results.map((result) => result[key]))
  return {
    totalMs: of('totalMs'),
    blackoutMs: of('blackoutMs'),
    wireBytes: of('wireBytes'),
    destinationBytes: of('destinationBytes'),
  }
}

export interface RowInit extends Pick<Row, 'scenario' | 'title' | 'link' | 'runs'> {
  targets: (row: Omit<Row, 'targets'>) => Target[]
  notes?: string[]
}

/** Sums runs up and holds them against the targets. */
export function makeRow({ scenario, title, link, runs, targets, notes = [] }: RowInit): Row {
  const present = <T>(values: readonly (T | null)[]) => values.filter((value): value is T => value !== null)
  const orNull = (results: readonly (MoveResult | null)[]) =>
    present(results).length === 0 ? null : medianResult(present(results))
  const limits = present(runs.map((run) => run.limit))
  const limit =
    limits.length === 0
      ? null
      : { bytes: median(limits.map(({ bytes }) => bytes)), ms: median(limits.map(({ ms }) => ms)) }
  const drover = medianResult(runs.map((run) => run.drover))
  const row = {
    scenario,
    title,
    link,
    runs,
    drover,
    stock: orNull(runs.map((run) => run.stock)),
    stockMultifd: orNull(runs.map((run) => run.stockMultifd)),
    limit,
    distance:
      limit === null ? null : { ms: drover.totalMs - limit.ms, bytes: drover.wireBytes - limit.bytes },
    notes,
  }
  return { ...row, targets: targets(row) }
}

export async function readResults(path: string): Promise<BenchResults> {
  return JSON.parse(await readFile(path, 'utf8')) as BenchResults
}
