/**
 * Every fault at every boundary of a move:
 *
 *     npm run faults -- [--shard I/N] [--only 'REGEX'] [--json FILE] [--logs DIR] [--list]
 *
 * Needs root: network namespaces and tmpfs. Shards may run side by side.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { seededRandom } from '../bench/random.ts'
import { type CaseEnd, caseName } from './fault-case.ts'
import { FINDING_KINDS } from './findings.ts'
import { MATRIX_MEMORY_LIMIT_BYTES, matrix } from './matrix.ts'
import { Theatre } from './theatre.ts'

const NODES = 3
/** Chooses only how a link that was cut comes back. */
const SEED = 1

const { values } = parseArgs({
  options: {
    shard: { type: 'string', default: '1/1' },
    only: { type: 'string', default: '' },
    json: { type: 'string' },
    logs: { type: 'string' },
    list: { type: 'boolean', default: false },
  },
})
const [shard, shards] = values.shard.split('/').map(Number) as [number, number]
const only = new RegExp(values.only)
const cases = matrix()
  .filter((faultCase) => only.test(caseName(faultCase)))
  .filter((_, i) => i % shards === shard - 1)

if (values.list) for (const faultCase of cases) console.log(caseName(faultCase))
else process.exitCode = await play()

async function play(): Promise<number> {
  const theatre = await Theatre.open(
    { nodes: NODES, memoryLimitBytes: MATRIX_MEMORY_LIMIT_BYTES },
    seededRandom(SEED),
  )
  if (typeof theatre === 'string') {
    console.log(`not run: ${theatre}`)
    return 2
  }
  await using _theatre = theatre
  const ends: CaseEnd[] = []
  let isInterrupted = false
  const interrupt = () => {
    isInterrupted = true
  }
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  for (const faultCase of cases) {
    if (isInterrupted) break
    const end = await theatre.run(faultCase)
    ends.push(end)
    tell(end, ends.length)
    if (end.findings.length > 0 && values.logs !== undefined) {
      await mkdir(values.logs, { recursive: true })
      await writeFile(join(values.logs, `${end.name.replaceAll(/[^a-z0-9]+/gi, '-')}.log`), theatre.lastLogs)
    }
  }
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(ends, null, 1)}\n`)
  return sumUp(ends)
}

function tell({ name, outcome, owner, ms, findings }: CaseEnd, count: number): void {
  const mark = findings.length === 0 ? 'ok  ' : 'FAIL'
  const seconds = (ms / 1000).toFixed(1).padStart(5)
  console.log(
    `${mark} ${String(count).padStart(3)}/${cases.length} ${seconds} s  ${name}: ${outcome}, at the ${owner}`,
  )
  for (const { kind, text } of findings) console.log(`       ${kind}: ${text}`)
}

function sumUp(ends: readonly CaseEnd[]): number {
  const findings = ends.flatMap((end) => end.findings)
  const counts = FINDING_KINDS.map((kind) => `${findings.filter((one) => one.kind === kind).length} ${kind}`)
  const failed = ends.filter((end) => end.findings.length > 0).length
  const minutes = ends.reduce((sum, { ms }) => sum + ms, 0) / 60_000
  console.log(
    `${ends.length} cases of ${cases.length} in ${minutes.toFixed(1)} min, ${failed} failed: ${counts.join(', ')}`,
  )
  return failed === 0 && ends.length === cases.length ? 0 : 1
}
