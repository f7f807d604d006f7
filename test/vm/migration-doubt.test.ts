import { once } from 'node:events'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { NO_COOL_DOWN } from '../../src/domain/cool-down.ts'
import { doubtOf } from '../../src/domain/vm.ts'
import { HANDOVER_PROTOCOL, MIGRATE_PROTOCOL } from '../../src/migration/index.ts'
import type { Channel } from '../../src/wire/channel.ts'
import { type ControlKind, controlCodec, verdictRequestCodec } from '../../src/wire/migration-messages.ts'
import { MigrationRig, type RigNode } from './migration-rig.ts'

const PEER = '12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf'

let rig: MigrationRig

beforeAll(async () => {
  rig = await MigrationRig.start({
    coolDownRule: ({ lengthMs }) => ({ ...NO_COOL_DOWN, lengthMs: lengthMs + 60_000, previousNode: PEER }),
  })
  await rig.a.node.vms.run(
    { name: 'w', templateRef: 'base', nics: [] },
    { signal: AbortSignal.timeout(60_000) },
  )
  await using console = await rig.a.node.console('w')
  await console.run('workload counter start')
})
afterAll(() => rig[Symbol.asyncDispose]())

type Hooks = {
  onSend?: (kind: ControlKind, channel: Channel) => void
  onReceive?: (kind: ControlKind, channel: Channel, signal: AbortSignal | undefined) => void | Promise<void>
}

/** A control channel whose messages are looked at on their way; other channels are left alone. */
function hooked({ onSend, onReceive }: Hooks) {
  return (protocol: string, channel: Channel): Channel => {
    if (protocol !== MIGRATE_PROTOCOL) return channel
    return {
      peer: channel.peer,
      get bytesSent() {
        return channel.bytesSent
      },
      get bytesReceived() {
        return channel.bytesReceived
      },
      send: async (message, options) => {
        onSend?.(controlCodec.decode(message).kind, channel)
        return channel.send(message, options)
      },
      receive: async (options) => {
        const message = await channel.receive(options)
        if (message !== null) await onReceive?.(controlCodec.decode(message).kind, channel, options.signal)
        return message
      },
      close: () => channel.close(),
      abort: (error) => channel.abort(error),
    }
  }
}

/** Cuts the control channel around one kind of message: instead of sending it, or just before it would be heard. */
function cutAt(kind: ControlKind, side: 'sent' | 'received') {
  const cut = (seen: ControlKind, channel: Channel): void => {
    if (seen !== kind) return
    const error = new Error(`the link broke at ${kind}`)
    channel.abort(error)
    throw error
  }
  return hooked(side === 'sent' ? { onSend: cut } : { onReceive: cut })
}

const intact = (_: string, channel: Channel) => channel

/** Which node runs the VM; throws unless it is just one, and the guest there counts. */
async function runningAt(): Promise<'a' | 'b'> {
  const owners: ('a' | 'b')[] = []
  for (const [name, { node }] of Object.entries({ a: rig.a, b: rig.b }) as ['a' | 'b', RigNode][]) {
    if (node.vms.list().some(({ state }) => state.kind === 'running')) owners.push(name)
  }
  expect(owners.length, `owners: ${owners}`).toBe(1)
  await using console = await rig[owners[0]!].node.console('w')
  const read = async () => Number(await console.run('workload counter read'))
  const before = await read()
  await expect.poll(read, { timeout: 10_000, interval: 50 }).toBeGreaterThan(before)
  return owners[0]!
}

async function bringHome(): Promise<void> {
  rig.tamper = intact
  if ((await runningAt()) === 'b') expect((await rig.move('w', rig.b, 'a')).outcome).toBe('completed')
}

test.each<[ControlKind, 'sent' | 'received']>([
  ['offer', 'sent'],
  ['accept', 'received'],
  ['prepared', 'received'],
  ['roundApplied', 'received'],
  ['finish', 'sent'],
  ['ready', 'received'],
])('a link that breaks at %s (%s) leaves the VM running where it was', async (kind, side) => {
  rig.tamper = cutAt(kind, side)
  const report = await rig.move('w', rig.a, 'b')
  expect(report.outcome).toBe('failed')
  expect(report.error?.code).toBe('PEER_LOST')
  expect(await runningAt()).toBe('a')
  expect(rig.a.node.vms.get('w').state.kind).toBe('running')
  await expect.poll(() => rig.b.node.runDirs(), { timeout: 10_000 }).toEqual([])
})

test('a VM arrives with what the rule of the destination makes of the cool-down that its source has', async () => {
  rig.tamper = intact
  await rig.move('w', rig.a, 'b')
  const { coolDown } = rig.b.node.vms.get('w')
  expect(coolDown).toEqual({
    ...{ remainingMs: 0, lengthMs: 60_000, previousNode: PEER, sinceMoveMs: 0 },
    atMs: expect.closeTo(Date.now(), -5),
  })
  await rig.move('w', rig.b, 'a')
  expect(rig.a.node.vms.get('w').coolDown).toMatchObject({ lengthMs: 120_000, previousNode: PEER })
})

test('a destination that hangs in the blackout keeps the guest no longer than its limit', async () => {
  rig.tamper = hooked({
    onReceive: async (kind, _, signal) => {
      if (kind === 'ready') await once(signal!, 'abort')
    },
  })
  const report = await rig.move('w', rig.a, 'b', { maxBlackoutMs: 1_000 })
  expect(report).toMatchObject({ outcome: 'failed', error: { code: 'BLACKOUT_TOO_LONG' } })
  expect(report.durationsMs.blackout).toBeLessThan(2_000)
  expect(await runningAt()).toBe('a')
  await expect.poll(() => rig.b.node.runDirs(), { timeout: 10_000 }).toEqual([])
})

test('a Grant that never arrives is refused for good when asked about, and the VM goes on at the source', async () => {
  rig.tamper = cutAt('grant', 'sent')
  const report = await rig.move('w', rig.a, 'b')
  expect(report.outcome).toBe('failed')
  expect(await runningAt()).toBe('a')
  rig.tamper = intact
  expect((await rig.move('w', rig.a, 'b')).outcome).toBe('completed')
  await bringHome()
})

test('a Running that is never heard is asked for, and the move completes', async () => {
  rig.tamper = cutAt('running', 'received')
  const report = await rig.move('w', rig.a, 'b')
  expect(report.outcome).toBe('completed')
  expect(await runningAt()).toBe('b')
  const kinds = rig.events
    .filter((event) => 'migrationId' in event && event.migrationId === report.migrationId)
    .map(({ kind }) => kind)
  expect(kinds).toContain('migration-arrived')
  expect(kinds).not.toContain('migration-discarded')
  await bringHome()
})

/** Cuts at a message, and lets no question through. */
function cutOff(kind: ControlKind, side: 'sent' | 'received') {
  const cut = cutAt(kind, side)
  return (protocol: string, channel: Channel): Channel => {
    if (protocol === HANDOVER_PROTOCOL) channel.abort(new Error('no way through'))
    return cut(protocol, channel)
  }
}

test('without an answer the move is in doubt: paused at the source, until the destination can be asked', async () => {
  rig.tamper = cutOff('running', 'received')
  const report = await rig.move('w', rig.a, 'b')
  expect(report).toMatchObject({ outcome: 'in-doubt', error: { code: 'IN_DOUBT' } })
  expect(rig.a.node.vms.get('w').state.kind).toBe('in-doubt')
  expect((await rig.a.node.vms.show('w')).runState).not.toBe('running')
  expect(await runningAt()).toBe('b')
  await expect(rig.a.node.vms.resume('w', { signal: AbortSignal.timeout(5_000) })).rejects.toMatchObject({
    code: 'VM_IN_DOUBT',
  })
  rig.tamper = intact
  await expect.poll(() => rig.a.node.vms.list().length, { timeout: 40_000 }).toBe(0)
  expect((await rig.a.migrations.get(report.migrationId)).report.outcome).toBe('completed')
  await bringHome()
})

test('a person may decide a move in doubt, and a decision is not taken twice', async () => {
  rig.tamper = cutOff('grant', 'sent')
  const report = await rig.move('w', rig.a, 'b')
  expect(report.outcome).toBe('in-doubt')
  await rig.a.migrations.resolve(report.migrationId, 'source')
  expect(await runningAt()).toBe('a')
  await expect(rig.a.migrations.resolve(report.migrationId, 'source')).rejects.toMatchObject({
    code: 'NOT_IN_DOUBT',
  })
  await bringHome()
})

test('a person may decide at once: the move ends with that, and is no longer under way', async () => {
  rig.tamper = cutOff('grant', 'sent')
  const moving = rig.move('w', rig.a, 'b')
  await expect.poll(() => rig.a.node.vms.get('w').state.kind, { interval: 10 }).toBe('in-doubt')
  const { migrationId } = rig.events.findLast((event) => event.kind === 'migration-started')!
  // In doubt on disk is earlier than in doubt: the Grant is just being sent.
  const decide = () =>
    rig.a.migrations.resolve(migrationId, 'source').then(
      () => 'decided',
      () => 'not yet',
    )
  await expect.poll(decide).toBe('decided')
  expect((await moving).outcome).toBe('failed')
  expect((await rig.a.migrations.get(migrationId)).running).toBe(false)
  expect(await runningAt()).toBe('a')
  await bringHome()
})

test('a guest that sleeps stays where it is: a move would wake it, dead', async () => {
  await rig.a.node.vms.run(
    { name: 's3', templateRef: 'base', nics: [] },
    { signal: AbortSignal.timeout(60_000) },
  )
  {
    await using console = await rig.a.node.console('s3')
    // It never answers: it sleeps.
    await console.run('echo mem > /sys/power/state', { timeoutMs: 2_000 }).catch(() => {})
  }
  await expect
    .poll(async () => (await rig.a.node.vms.show('s3')).runState, { timeout: 20_000 })
    .toBe('suspended')
  const report = await rig.move('s3', rig.a, 'b')
  expect(report).toMatchObject({ outcome: 'refused', error: { code: 'NOT_MOVABLE' } })
  expect((await rig.a.node.vms.show('s3')).runState).toBe('suspended')
  await rig.a.node.vms.stopVm('s3', { force: true, signal: AbortSignal.timeout(10_000) })
  await rig.a.node.vms.remove('s3')
})

test('a guest that falls asleep while it is moved stays where it is', async () => {
  const name = 'sleepy'
  await rig.a.node.vms.run({ name, templateRef: 'base', nics: [] }, { signal: AbortSignal.timeout(60_000) })
  const runState = async () => (await rig.a.node.vms.show(name)).runState
  rig.tamper = hooked({
    onReceive: async (kind) => {
      if (kind !== 'prepared') return
      await using console = await rig.a.node.console(name)
      await console.run('echo mem > /sys/power/state', { timeoutMs: 2_000 }).catch(() => {})
      await expect.poll(runState, { timeout: 20_000 }).toBe('suspended')
    },
  })
  const report = await rig.move(name, rig.a, 'b')
  rig.tamper = intact
  expect(report).toMatchObject({ outcome: 'refused', error: { code: 'NOT_MOVABLE' } })
  expect(await runState()).toBe('suspended')
  await rig.a.node.vms.stopVm(name, { force: true, signal: AbortSignal.timeout(10_000) })
  await rig.a.node.vms.remove(name)
})

test('an agent that restarts in doubt goes on asking, and the VM is where the destination says', async () => {
  rig.tamper = cutOff('running', 'received')
  const { migrationId, outcome } = await rig.move('w', rig.a, 'b')
  expect(outcome).toBe('in-doubt')
  // An agent that is killed has had no time for a report.
  await rig.a.node.db.sublevel('migrations').clear()
  await rig.restart('a')
  expect(rig.a.node.vms.get('w').state.kind).toBe('in-doubt')
  expect((await rig.a.migrations.get(migrationId)).report.outcome).toBe('in-doubt')
  rig.tamper = intact
  await expect.poll(() => rig.a.node.vms.list().length, { timeout: 40_000 }).toBe(0)
  await expect
    .poll(async () => (await rig.a.migrations.get(migrationId)).report.outcome, { timeout: 5_000 })
    .toBe('completed')
  expect(await runningAt()).toBe('b')
  await bringHome()
})

test('a taken Grant whose write is said to have failed is taken back on disk before anybody hears of it', async () => {
  const { db } = rig.b.node
  type Batch = (writes: unknown[], options: object) => Promise<void>
  const whole = db as unknown as { batch: Batch }
  const batch = whole.batch.bind(db)
  let failures = 0
  // The disk has it, and says that it hasn't; the first attempt to take it back fails too.
  whole.batch = async (writes, options) => {
    // The record and the Grant, in one.
    if (failures >= 2 || writes.length !== 2) return batch(writes, options)
    failures++
    if (failures === 1) await batch(writes, options)
    throw new Error('the disk failed')
  }
  try {
    const report = await rig.move('w', rig.a, 'b')
    expect(report.outcome).toBe('failed')
    expect(failures).toBe(2)
  } finally {
    whole.batch = batch
  }
  expect(await runningAt()).toBe('a')
  await expect.poll(() => rig.b.node.runDirs(), { timeout: 10_000 }).toEqual([])
  await rig.restart('b')
  expect(rig.b.node.vms.list()).toEqual([])
  expect(await runningAt()).toBe('a')
  expect((await rig.move('w', rig.a, 'b')).outcome).toBe('completed')
})

test('an agent that stops while its disk may say taken answers nobody: its next start knows', async () => {
  await bringHome()
  const { db } = rig.b.node
  type Batch = (writes: unknown[], options: object) => Promise<void>
  const whole = db as unknown as { batch: Batch }
  const batch = whole.batch.bind(db)
  let unsure: unknown[] | null = null
  // A write whose fsync failed: nobody sees it until the log is read again. From then on the disk refuses all.
  whole.batch = async (writes, options) => {
    if (writes.length !== 2) return batch(writes, options)
    unsure ??= writes
    throw new Error('the disk failed')
  }
  const report = await rig.move('w', rig.a, 'b')
  expect(report.outcome).toBe('in-doubt')
  await rig.b.migrations.stop()
  const { spec, epoch, state } = rig.a.node.vms.get('w')
  const { digest, ...doubt } = doubtOf(state)!
  const grant = { ...doubt, vmId: spec.id, epoch: epoch + 1, source: 'a', digest: Buffer.from(digest, 'hex') }
  const channel = rig.dial('a', 'b', HANDOVER_PROTOCOL)
  await channel.send(verdictRequestCodec.encode({ grant }))
  await expect(
    channel.receive({ maxBytes: 4096, signal: AbortSignal.timeout(20_000) }),
  ).rejects.toMatchObject({ code: 'ERR_CHANNEL_RESET' })
  whole.batch = batch
  await batch(unsure!, { sync: true })
  await rig.restart('b')
  await expect.poll(() => rig.a.node.vms.list().length, { timeout: 60_000 }).toBe(0)
  expect(await runningAt()).toBe('b')
  await bringHome()
})
