import type { RebalancePlanReply } from '../agent/api-schema.ts'
import { PAGE_BYTES } from '../domain/page.ts'
import { renderTable } from './table.ts'
import { formatBytes, formatCount, formatMs } from './units.ts'

type Considered = RebalancePlanReply['moves'][number]
type Sum = NonNullable<Considered['sum']>
type Reason = Extract<Considered['verdict'], { kind: 'stay' }>['reason']

/** Each move that was considered: its sum term by term, and why it is or isn't made. Last, who was not compared. */
export function renderPlan({ node, paused, lookedAtMs, moves, notProbing }: RebalancePlanReply): string {
  const head = paused ? [`${node}: paused, so nothing is moved`] : []
  const nothing = lookedAtMs === null ? 'has not looked yet' : 'no VM that may be moved'
  const body = moves.length > 0 ? moves.map(renderMove) : [`${node}: ${nothing}`]
  const tail = notProbing.map(({ name, code }) => `${name}: does not probe clients for this node (${code})`)
  return [...head, ...body, ...tail].join('\n\n')
}

function renderMove({ vmName, to, sum, verdict }: Considered): string {
  const decision = verdict.kind === 'move' ? 'moves' : `stays: ${describeReason(verdict.reason)}`
  const head = `${vmName}${to === null ? '' : ` → ${to.name}`}  ${decision}`
  return sum === null ? head : `${head}\n${indented(renderSum(sum))}`
}

function renderSum({ lead, cost, gainMsS, overloadMsS, netMsS }: Sum): string {
  const link = `${formatRate(cost.bandwidthBytesPerSecond)}${cost.bandwidthMeasured ? '' : ', not measured'}`
  const again =
    cost.dirtiedBytes >= PAGE_BYTES ? ` + ${formatBytes(cost.dirtiedBytes)} written meanwhile` : ''
  const template = cost.templateBytes > 0 ? `${formatBytes(cost.templateBytes)} to send` : 'is there'
  const rows = [
    [
      'clients',
      `+${msS(gainMsS)}`,
      `${formatMs(lead.thereMs)} there, ${formatMs(lead.hereMs)} here, for ${formatMs(lead.stableMs)}`,
    ],
    ['pages', msS(-cost.transferMsS), `${formatBytes(cost.privateBytes)}${again} at ${link}`],
    ['template', msS(-cost.templateMsS), template],
    ['blackout', msS(-cost.blackoutMsS), formatMs(cost.blackoutMs)],
    ['memory', msS(-cost.memoryMsS), `${formatBytes(cost.memoryBytes)} there`],
    [
      'load',
      msS(-overloadMsS),
      overloadMsS > 0 ? 'its CPUs are waited for' : 'no more waiting for CPUs than here',
    ],
    ['sum', msS(netMsS), netMsS > 0 ? 'pays' : 'does not pay'],
  ]
  return renderTable(['TERM', 'MS·S', ''], rows)
}

/** Why a VM stays, as people say it. */
function describeReason(reason: Reason): string {
  switch (reason.code) {
    case 'pinned':
      return 'it was not started with --auto, or has a disk of its own'
    case 'not-running':
      return `it is ${reason.state}`
    case 'too-young':
      return `it started lately: looked at in ${formatMs(reason.remainingMs)}`
    case 'in-cool-down':
      return `it moved lately: may move again in ${formatMs(reason.remainingMs)}`
    case 'vm-backs-off':
      return `a move of it failed: tried again in ${formatMs(reason.remainingMs)}`
    case 'not-measured':
      return 'no round trips to its clients were measured'
    case 'takes-no-vms':
      return 'that node is draining'
    case 'cannot-run-it':
      return "that node's QEMU or accelerator can't run it"
    case 'no-room':
      return `${formatBytes(reason.neededBytes)} needed there, ${formatBytes(reason.availableBytes)} available`
    case 'destination-backs-off':
      return `a move to that node failed: tried again in ${formatMs(reason.remainingMs)}`
    case 'saves-too-little':
      return `saves less than the ${formatMs(reason.neededMs)} that count`
    case 'not-held':
      return `seen in ${reason.samples} of ${reason.neededSamples} probes in a row`
    case 'costs-more':
      return 'costs more than it gains'
    case 'another-gains-more':
      return 'another move gains more'
    case 'node-busy':
      return 'a VM is on its way from this node'
    case 'destination-busy':
      return 'a VM is on its way to that node'
    case 'budget-spent':
      return `this hour's moves are made: next in ${formatMs(reason.remainingMs)}`
    case 'next-round':
      return 'left to the next round, by chance'
  }
}

function msS(value: number): string {
  return formatCount(Math.round(value) + 0)
}

function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`
}

function indented(text: string): string {
  return text.replaceAll(/^/gm, '  ')
}
