import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { MachineSpec } from '../../src/domain/template.ts'
import { HANDOVER_PROTOCOL, MIGRATE_PROTOCOL, PAGES_PROTOCOL } from '../../src/migration/index.ts'
import { MAX_ARRIVALS_PER_PEER } from '../../src/migration/protocol.ts'
import {
  type ControlBody,
  type ControlMessage,
  controlCodec,
  MAX_CONTROL_BYTES,
  pagesHelloCodec,
  signedCodec,
  statementCodec,
  verdictRequestCodec,
} from '../../src/wire/migration-messages.ts'
import { someOffer, someVmSpec } from '../support/vm-spec.ts'
import { MigrationRig } from './migration-rig.ts'

/** A member of the mesh that doesn't play by the rules, against a node with real QEMUs. */
let rig: MigrationRig
let templateId: string
let machine: MachineSpec

beforeAll(async () => {
  rig = await MigrationRig.start()
  const [template] = rig.a.node.templates.list()
  templateId = template!.id
  machine = template!.manifest.machine
})
afterAll(() => rig[Symbol.asyncDispose]())

function offer(changes: Partial<ControlBody<'offer'>> = {}): ControlBody<'offer'> {
  return someOffer({ vm: someVmSpec({ templateId }), machine, ...changes })
}

function openMove(message: ControlMessage) {
  const channel = rig.dial('mallory', 'a', MIGRATE_PROTOCOL)
  void channel.send(controlCodec.encode(message))
  return {
    channel,
    answer: async () => {
      const signal = AbortSignal.timeout(20_000)
      const bytes = await channel.receive({ maxBytes: MAX_CONTROL_BYTES, signal })
      return controlCodec.decode(bytes!)
    },
  }
}

const nothingLeft = () => expect.poll(() => rig.a.node.runDirs(), { timeout: 20_000 }).toEqual([])

test.each<[string, Partial<MachineSpec>]>([
  ['less memory', { memoryBytes: 4096 }],
  ['more CPUs', { cpus: 77 }],
  ['another kernel command line', { kernelCommandLine: 'init=/bin/sh' }],
])('an offer of a machine with %s than its template is refused', async (_, changes) => {
  const { answer, channel } = openMove(offer({ machine: { ...machine, ...changes } }))
  expect(await answer()).toMatchObject({ kind: 'refuse' })
  channel.abort(new Error('done'))
  await nothingLeft()
})

test('a peer keeps no more than its share of arrivals, and they end with their streams', async () => {
  const moves = Array.from({ length: MAX_ARRIVALS_PER_PEER + 1 }, () => openMove(offer()))
  const answers = await Promise.all(moves.map((move) => move.answer()))
  expect(answers.filter(({ kind }) => kind === 'accept').length).toBe(MAX_ARRIVALS_PER_PEER)
  expect(answers.find(({ kind }) => kind === 'refuse')).toMatchObject({ code: 'TOO_MANY_MOVES' })
  for (const { channel } of moves) channel.abort(new Error('done'))
  await nothingLeft()
})

test('a Finish that skips rounds ends the move', async () => {
  const offered = offer()
  const { answer, channel } = openMove(offered)
  expect(await answer()).toMatchObject({ kind: 'accept' })
  const pages = rig.dial('mallory', 'a', PAGES_PROTOCOL)
  await pages.send(pagesHelloCodec.encode({ migrationId: offered.migrationId }))
  expect(await answer()).toMatchObject({ kind: 'prepared' })
  const finish: ControlMessage = {
    kind: 'finish',
    deviceState: new Uint8Array(8),
    deviceStateBytes: 8,
    digest: new Uint8Array(32),
    rounds: 2 ** 32 - 1,
    pausedNs: 0,
  }
  await channel.send(controlCodec.encode(finish))
  expect(await answer()).toMatchObject({ kind: 'abort', code: 'PROTOCOL_VIOLATION' })
  await nothingLeft()
})

test('pages for the move of another are not taken', async () => {
  const offered = offer()
  const { answer, channel } = openMove(offered)
  expect(await answer()).toMatchObject({ kind: 'accept' })
  const pages = rig.dial('trudy', 'a', PAGES_PROTOCOL)
  await pages.send(pagesHelloCodec.encode({ migrationId: offered.migrationId }))
  await expect(pages.receive({ maxBytes: 1024, signal: AbortSignal.timeout(5_000) })).rejects.toThrow()
  channel.abort(new Error('done'))
  await nothingLeft()
})

function grantOf(source: string, about: { migrationId?: string; vmId?: string }) {
  const { migrationId = randomUUID(), vmId = randomUUID() } = about
  const digest = Buffer.alloc(32)
  return { migrationId, vmId, epoch: 2, source, destination: 'a', place: randomUUID(), digest }
}

function wordOf(answer: Uint8Array): string {
  return statementCodec.decode(signedCodec.decode(answer).statement).word
}

test('questions about moves that never were are answered, and leave nothing on disk', async () => {
  const verdicts = rig.a.node.db.sublevel<string, unknown>('verdicts', { valueEncoding: 'json' })
  const before = (await verdicts.keys().all()).length
  for (let i = 0; i < 20; i++) {
    const channel = rig.dial('mallory', 'a', HANDOVER_PROTOCOL)
    await channel.send(verdictRequestCodec.encode({ grant: grantOf('mallory', {}) }))
    const bytes = await channel.receive({ maxBytes: 4096, signal: AbortSignal.timeout(5_000) })
    expect(wordOf(bytes!)).toBe('REFUSED')
  }
  expect((await verdicts.keys().all()).length).toBe(before)
})

test('a question about a move of another decides nothing', async () => {
  const offered = offer()
  const { answer, channel } = openMove(offered)
  expect(await answer()).toMatchObject({ kind: 'accept' })
  const other = rig.dial('trudy', 'a', HANDOVER_PROTOCOL)
  const about = { migrationId: offered.migrationId, vmId: offered.vm.id }
  await other.send(verdictRequestCodec.encode({ grant: grantOf('trudy', about) }))
  expect(wordOf((await other.receive({ maxBytes: 4096 }))!)).toBe('REFUSED')
  const liar = rig.dial('trudy', 'a', HANDOVER_PROTOCOL)
  await liar.send(verdictRequestCodec.encode({ grant: grantOf('mallory', about) }))
  await expect(liar.receive({ maxBytes: 4096, signal: AbortSignal.timeout(5_000) })).rejects.toThrow()
  // The move goes on as if nobody had asked.
  const pages = rig.dial('mallory', 'a', PAGES_PROTOCOL)
  await pages.send(pagesHelloCodec.encode({ migrationId: offered.migrationId }))
  expect(await answer()).toMatchObject({ kind: 'prepared' })
  channel.abort(new Error('done'))
  await nothingLeft()
})

test('an offer under the name of a move whose Grant was taken here is refused: its record stays', async () => {
  const grant = grantOf('trudy', {})
  const { migrationId, vmId, epoch, source } = grant
  const taken = { verdict: 'granted', vmId, epoch, source, atMs: Date.now() }
  await rig.a.node.db.sublevel<string, unknown>('verdicts', { valueEncoding: 'json' }).put(migrationId, taken)
  const { answer, channel } = openMove(offer({ migrationId }))
  expect(await answer()).toMatchObject({ kind: 'refuse', code: 'PROTOCOL_VIOLATION' })
  channel.abort(new Error('done'))
  const question = rig.dial('trudy', 'a', HANDOVER_PROTOCOL)
  await question.send(verdictRequestCodec.encode({ grant }))
  expect(wordOf((await question.receive({ maxBytes: 4096 }))!)).toBe('TAKEN')
  await nothingLeft()
})
