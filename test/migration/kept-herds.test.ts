/** What a peer may say on a herd's channel, through the handler, with the node's own VMs and templates behind it. */
import { randomBytes, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { MAX_HERD_VMS } from '../../src/domain/migration.ts'
import { Policy } from '../../src/domain/policy.ts'
import { KeptHerds } from '../../src/migration/kept-herds.ts'
import { MAX_HERDS_PER_PEER } from '../../src/migration/protocol.ts'
import type { MigrationEvent } from '../../src/migration/service.ts'
import { VmService } from '../../src/vm/index.ts'
import { type ControlBody, controlCodec, MAX_CONTROL_BYTES } from '../../src/wire/migration-messages.ts'
import { messageType } from '../../src/wire/schema.ts'
import { channelPair } from '../support/channel-pair.ts'
import { machine, TestNode } from '../template/fixture.ts'

const MIB = 1024 ** 2
const LIMIT_BYTES = 4096 * MIB
/** Of the source of a herd, before its places are free again. */
const IDLE_MS = 1_000
const TEMPLATE_ID = `bafkrei${'a'.repeat(52)}`

let node: TestNode
let vms: VmService
let herds: KeptHerds
let events: MigrationEvent[]
let stopping: AbortController
let moving: boolean

beforeEach(async () => {
  node = await TestNode.start()
  vms = new VmService(
    { db: node.db, templates: node.store, binary: null, onEvent: () => {} },
    { dataDir: node.dir, runDir: join(node.dir, 'run'), memoryLimitBytes: LIMIT_BYTES },
  )
  events = []
  stopping = new AbortController()
  moving = false
  herds = new KeptHerds(
    {
      vms,
      templates: node.store,
      policy: new Policy({}, { node: 'here' }),
      isMoving: () => moving,
      onEvent: (event) => events.push(event),
    },
    { idleMs: IDLE_MS },
  )
})
afterEach(async () => {
  stopping.abort(new Error('the test ends'))
  await node[Symbol.asyncDispose]()
})

type HerdOffer = ControlBody<'herdOffer'>

function offer(count = 2, changes: Partial<HerdOffer['vms'][number]> = {}): HerdOffer {
  const vm = () => ({ vmId: randomUUID(), templateId: TEMPLATE_ID, privatePages: 10, machine, ...changes })
  return { kind: 'herdOffer', herdId: randomUUID(), vms: Array.from({ length: count }, vm) }
}

/** A channel that a peer opened; `served` is how the handler ended, as the mesh would see it. */
function open(peer = 'mallory') {
  const [ours, theirs] = channelPair({ peers: [peer, 'here'] })
  const served = herds.serve(theirs, stopping.signal).then(
    () => 'served',
    (error: Error & { code?: string }) => {
      theirs.abort(error)
      return error.code ?? error.message
    },
  )
  const answer = async () => {
    const bytes = await ours.receive({ maxBytes: MAX_CONTROL_BYTES, signal: AbortSignal.timeout(5_000) })
    return controlCodec.decode(bytes!)
  }
  const ask = async (message: HerdOffer) => {
    await ours.send(controlCodec.encode(message))
    return await answer()
  }
  return { channel: ours, served, ask }
}

const control = messageType('drover.migration.Control')
const raw = (body: object) => control.encode(control.fromObject(body)).finish()
const [vm] = offer(1).vms

test.each<[string, () => Uint8Array]>([
  ['nothing', () => new Uint8Array(0)],
  ['noise', () => randomBytes(64)],
  ['a herd of nobody', () => raw({ herdOffer: { herdId: randomUUID(), vms: [] } })],
  ['a herd of one too many', () => raw({ herdOffer: offer(MAX_HERD_VMS + 1) })],
  ['one VM twice', () => raw({ herdOffer: { herdId: randomUUID(), vms: [vm, vm] } })],
  ['a herd without an id', () => raw({ herdOffer: { vms: offer().vms } })],
  ['a VM whose id is a path', () => raw({ herdOffer: offer(2, { vmId: '../../etc' }) })],
  ['a template whose id is a path', () => raw({ herdOffer: offer(2, { templateId: '../../etc/passwd' }) })],
  [
    'a VM without a machine',
    () => raw({ herdOffer: { herdId: randomUUID(), vms: [{ ...vm, machine: undefined }] } }),
  ],
  [
    'a machine with no memory',
    () => raw({ herdOffer: offer(2, { machine: { ...machine, memoryBytes: 0 } }) }),
  ],
])('%s keeps nothing, and ends the channel', async (_what, bytes) => {
  const { channel, served } = open()
  await channel.send(bytes())
  expect(await served).toBe('MESSAGE_MALFORMED')
  expect(vms.memory().reservedBytes).toBe(0)
  expect(events).toEqual([])
})

test('a message longer than any is not read', async () => {
  const { channel, served } = open()
  // Nobody will read it, so nobody waits for its sending.
  channel.send(new Uint8Array(MAX_CONTROL_BYTES + 1)).catch(() => {})
  expect(await served).toBe('MESSAGE_TOO_LARGE')
})

test('an offer of one VM is not for this protocol', async () => {
  const { channel, served } = open()
  await channel.send(controlCodec.encode({ kind: 'prepared', templateBytes: 0, baselineLost: false }))
  expect(await served).toBe('PROTOCOL_VIOLATION')
})

test('a herd is kept until its channel is closed', async () => {
  const { channel, served, ask } = open()
  const offered = offer(3)
  expect(await ask(offered)).toEqual({ kind: 'herdAccept' })
  expect(vms.memory()).toMatchObject({ committedBytes: machine.memoryBytes })
  expect(vms.memory().reservedBytes).toBeGreaterThan(0)
  expect(events).toEqual([{ kind: 'herd-admitted', herdId: offered.herdId, from: 'mallory', vms: 3 }])
  await channel.close()
  expect(await served).toBe('served')
  expect(vms.memory()).toMatchObject({ reservedBytes: 0, committedBytes: 0 })
})

test('a herd is freed when its channel breaks, and when the agent stops', async () => {
  const [broken, stopped] = [open(), open()]
  for (const { ask } of [broken, stopped]) expect(await ask(offer())).toEqual({ kind: 'herdAccept' })
  broken.channel.abort(new Error('the source is gone'))
  expect(await broken.served).not.toBe('served')
  expect(vms.memory().reservedBytes).toBeGreaterThan(0)
  stopping.abort(new Error('the agent stops'))
  expect(await stopped.served).toBe('the agent stops')
  expect(vms.memory().reservedBytes).toBe(0)
})

test('a herd whose source moves nothing is free again in time, one whose moves go on is kept', async () => {
  moving = true
  const { served, ask } = open()
  expect(await ask(offer())).toEqual({ kind: 'herdAccept' })
  await sleep(IDLE_MS * 1.5)
  expect(vms.memory().reservedBytes).toBeGreaterThan(0)
  moving = false
  expect(await served).toBe('MIGRATION_TIMEOUT')
  expect(vms.memory().reservedBytes).toBe(0)
})

test('whoever goes on talking loses the herd', async () => {
  const { channel, served, ask } = open()
  await ask(offer())
  await channel.send(new Uint8Array(0))
  expect(await served).toBe('PROTOCOL_VIOLATION')
  expect(vms.memory().reservedBytes).toBe(0)
})

test('more memory than there is: refused whole, with the figures', async () => {
  const { served, ask } = open()
  const answer = await ask(offer(MAX_HERD_VMS, { privatePages: 0xffff_ffff }))
  expect(answer).toMatchObject({ kind: 'refuse', code: 'NOT_ENOUGH_MEMORY' })
  const { neededBytes, availableBytes, missingBytes } = JSON.parse(
    (answer as ControlBody<'refuse'>).detailsJson,
  )
  expect(neededBytes).toBeGreaterThan(availableBytes)
  expect(missingBytes).toBe(neededBytes - availableBytes)
  expect(await served).toBe('served')
  expect(vms.memory().reservedBytes).toBe(0)
  expect(events).toMatchObject([{ kind: 'herd-refused', code: 'NOT_ENOUGH_MEMORY', vms: MAX_HERD_VMS }])
})

test('a peer has places for so many herds at a time, each once; others are not concerned', async () => {
  const herd = offer(1)
  const first = open()
  await first.ask(herd)
  expect(await open().ask(herd)).toMatchObject({ kind: 'refuse', code: 'PROTOCOL_VIOLATION' })
  for (let i = 1; i < MAX_HERDS_PER_PEER; i++) {
    expect(await open().ask(offer(1))).toEqual({ kind: 'herdAccept' })
  }
  expect(await open().ask(offer(1))).toMatchObject({ kind: 'refuse', code: 'TOO_MANY_MOVES' })
  expect(await open('trudy').ask(herd)).toEqual({ kind: 'herdAccept' })
  await first.channel.close()
  await first.served
  expect(await open().ask(offer(1))).toEqual({ kind: 'herdAccept' })
})
