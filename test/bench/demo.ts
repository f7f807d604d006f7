/**
 * `scripts/demo`: two nodes on this machine, a template, three clones at work,
 * all of them moved; then the same clones moved by stock QEMU, side by side.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { styleText } from 'node:util'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { GuestConsole } from '../support/guest-console.ts'
import { SMALL } from './case.ts'
import { guestRamUse } from './guest-ram.ts'
import { loopback } from './network.ts'
import type { MoveResult } from './results.ts'
import { makeSetting, templateRam } from './setting.ts'
import { stockMove } from './stock.ts'
import { formatBytes, formatMs, textTable } from './table.ts'

const CLONES = ['web-1', 'web-2', 'web-3']
const DATA_MIB = 8

function say(text: string): void {
  console.log(`\n${styleText('bold', text, { stream: process.stdout })}`)
}

interface VmShow {
  pid: number
  consoleSocket: string
  pages: { guest: number; private: number }
}

async function withConsole<T>(
  vm: { consoleSocket: string },
  use: (console: GuestConsole) => Promise<T>,
): Promise<T> {
  await using console = await GuestConsole.connect(vm.consoleSocket)
  return await use(console)
}

async function work(console: GuestConsole): Promise<void> {
  await console.run(`workload data ${DATA_MIB} 1`)
  await console.run('workload counter start')
}

async function survived(console: GuestConsole): Promise<void> {
  const before = Number(await console.run('workload counter read'))
  const answer = (await console.run('workload check')).trim()
  if (answer !== 'ok') throw new Error(`data was lost on the way: ${answer}`)
  await sleep(500)
  if (Number(await console.run('workload counter read')) <= before)
    throw new Error('the counter stands still')
}

say('Two agents find each other; a guest boots on the first and becomes a template (some 15 s).')
await using setting = await makeSetting({ ...SMALL, makeLink: loopback })
const { pair, template, dir } = setting
const { source, destination } = pair
const destinationRam = templateRam(destination, pair.templateId)
console.log((await source.run(['mesh', 'ls'])).stdout.trim())
console.log((await source.run(['template', 'ls'])).stdout.trim())

say(`Three clones start; each writes ${DATA_MIB} MiB of its own, remembers its checksum, and counts.`)
for (const name of CLONES) {
  const startedMs = performance.now()
  await source.json('vm', 'run', name, '--template', pair.templateId)
  console.log(`${name} runs after ${formatMs(performance.now() - startedMs)}`)
  await withConsole(await source.json<VmShow>('vm', 'show', name), work)
}

say('All three move to the other node, running.')
const reports: MigrationReport[] = []
for (const name of CLONES) {
  const report = await source.json<MigrationReport>('migrate', name, '--to', 'destination')
  reports.push(report)
  console.log(
    `${name}: ${formatMs(report.durationsMs.total)}, stopped for ${formatMs(report.durationsMs.blackout)}`,
  )
}

say('Their data and counters, at the new place:')
const droverResults: MoveResult[] = []
for (const [i, name] of CLONES.entries()) {
  const vm = await destination.json<VmShow>('vm', 'show', name)
  await withConsole(vm, survived)
  const { privateBytes } = await guestRamUse(vm.pid, destinationRam)
  const { durationsMs, bytes } = reports[i]!
  droverResults.push({
    totalMs: durationsMs.total,
    blackoutMs: durationsMs.blackout,
    wireBytes: bytes.wire,
    destinationBytes: privateBytes,
  })
  console.log(
    `${name}: checksum right, counting; ${vm.pages.private.toLocaleString('en')} of ${vm.pages.guest.toLocaleString('en')} pages are its own`,
  )
}

say('The same clones with the same work, moved by QEMU itself:')
const stockResults: MoveResult[] = []
for (const name of CLONES) {
  const result = await stockMove(template, {
    dir: `${dir}/stock`,
    link: pair.link,
    workload: { start: work, check: survived },
    mode: { kind: 'default' },
  })
  stockResults.push(result)
  console.log(`${name}: ${formatMs(result.totalMs)}, stopped for ${formatMs(result.blackoutMs)}`)
}

say('Three VMs, moved:')
const sum = (results: readonly MoveResult[], key: keyof MoveResult) =>
  results.reduce((total, result) => total + result[key], 0)
const longest = (results: readonly MoveResult[]) => Math.max(...results.map(({ blackoutMs }) => blackoutMs))
const row = (mover: string, results: readonly MoveResult[]) => [
  mover,
  formatMs(sum(results, 'totalMs')),
  formatMs(longest(results)),
  formatBytes(sum(results, 'wireBytes')),
  formatBytes(sum(results, 'destinationBytes')),
]
console.log(
  textTable(
    ['', 'time', 'longest blackout', 'on the wire', 'guest memory there'],
    [row('drover', droverResults), row('stock QEMU', stockResults)],
  ),
)
const shared = await guestRamUse(
  (await destination.json<VmShow>('vm', 'show', CLONES[0]!)).pid,
  destinationRam,
)
console.log(
  `\nWith drover the three share one template at the destination, ${formatBytes(shared.residentBytes - shared.privateBytes)} of it mapped ` +
    'by the first of them so far; stock QEMU gives each a copy of everything.',
)
