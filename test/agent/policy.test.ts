/** What a member may want of a node that doesn't let it: each kind of request, over real connections. */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ask, COMMAND_PROTOCOL } from '../../src/agent/commands/ask.ts'
import { CONSOLE_PROTOCOL, serveConsole } from '../../src/agent/commands/console.ts'
import { serveCommands } from '../../src/agent/commands/serve.ts'
import { EventHub } from '../../src/agent/event-hub.ts'
import type { CommandParts } from '../../src/agent/parts.ts'
import { DroverError } from '../../src/domain/errors.ts'
import { Policy } from '../../src/domain/policy.ts'
import type { Mesh } from '../../src/mesh/index.ts'
import { Arrivals, type ArrivalsComponents } from '../../src/migration/arrivals.ts'
import { MigrationJournal } from '../../src/migration/journal.ts'
import { HANDOVER_PROTOCOL, HERD_PROTOCOL, MIGRATE_PROTOCOL } from '../../src/migration/protocol.ts'
import {
  fetchTemplate,
  serveTemplate,
  TEMPLATE_PROTOCOL,
  templateProviders,
} from '../../src/template/index.ts'
import {
  consoleReplyCodec,
  consoleRequestCodec,
  MAX_COMMAND_REPLY_BYTES,
} from '../../src/wire/command-messages.ts'
import {
  type ControlMessage,
  controlCodec,
  MAX_CONTROL_BYTES,
  signedCodec,
  statementCodec,
  verdictRequestCodec,
} from '../../src/wire/migration-messages.ts'
import { startMesh } from '../support/mesh-pair.ts'
import { someOffer, someVmSpec } from '../support/vm-spec.ts'
import { addTemplate, codeOf, machine, TestNode } from '../template/fixture.ts'

const soon = () => AbortSignal.timeout(10_000)
const NO_QEMU = new DroverError('QEMU_NOT_FOUND', 'refused', 'no QEMU here')

let stack: AsyncDisposableStack
let owner: Mesh
let friend: Mesh
let other: Mesh
let templateId: string
let store: TestNode['store']
const events = new EventHub()

beforeAll(async () => {
  stack = new AsyncDisposableStack()
  const { nodes } = stack.use(await startMesh(3))
  ;[owner, friend, other] = nodes as [Mesh, Mesh, Mesh]
  const only = [friend.peerId]
  const policy = new Policy({ send: only, fetch: only, command: only }, { node: 'n0' })
  const node = stack.use(await TestNode.start())
  const asking = stack.use(await TestNode.start())
  store = asking.store
  templateId = (await addTemplate(node.store)).id
  const arrivals = new Arrivals({
    journal: new MigrationJournal(node.db),
    signatures: owner.signatures,
    templates: node.store,
    policy,
    onEvent: () => {},
    vms: {
      reserveHerd: () => {
        throw NO_QEMU
      },
    },
  } as unknown as ArrivalsComponents)
  stack.defer(() => arrivals.stop())
  for (const { protocol, handler } of arrivals.handlers()) await owner.handle(protocol, handler)
  const parts = { policy, events, hypervisor: null, qemuError: NO_QEMU } as unknown as CommandParts
  await owner.handle(TEMPLATE_PROTOCOL, serveTemplate(node.store, { policy }))
  await owner.handle(COMMAND_PROTOCOL, serveCommands(parts))
  await owner.handle(CONSOLE_PROTOCOL, serveConsole(parts))
})
afterAll(() => stack.disposeAsync())

async function answer(from: Mesh, protocol: string, bytes: Uint8Array): Promise<Uint8Array> {
  const channel = await from.open(owner.peerId, protocol, soon())
  await channel.send(bytes)
  const reply = await channel.receive({ maxBytes: MAX_COMMAND_REPLY_BYTES, signal: soon() })
  const copy = Uint8Array.from(reply!)
  channel.abort(new Error('answered'))
  return copy
}

const vmId = randomUUID()
const refused = (peer: Mesh, action: string) => ({
  kind: 'refuse',
  code: 'NOT_PERMITTED',
  detailsJson: JSON.stringify({ action, peer: peer.peerId }),
})

async function control(from: Mesh, protocol: string, message: ControlMessage): Promise<ControlMessage> {
  expect(controlCodec.encode(message).length).toBeLessThan(MAX_CONTROL_BYTES)
  return controlCodec.decode(await answer(from, protocol, controlCodec.encode(message)))
}

test('a VM is not offered', async () => {
  const vm = someVmSpec({ id: vmId, name: 'web', templateId })
  const offer: ControlMessage = someOffer({ vm, machine })
  expect(await control(other, MIGRATE_PROTOCOL, offer)).toMatchObject(refused(other, 'send'))
})

test('nor a herd', async () => {
  const vms = [vmId, randomUUID()].map((id) => ({ vmId: id, templateId, privatePages: 1, machine }))
  const offer: ControlMessage = { kind: 'herdOffer', herdId: randomUUID(), vms }
  expect(await control(other, HERD_PROTOCOL, offer)).toMatchObject(refused(other, 'send'))
  expect(await control(friend, HERD_PROTOCOL, offer)).toMatchObject({ code: 'QEMU_NOT_FOUND' })
})

test('a template is not fetched, by its id or a made-up one', async () => {
  const fetched = (from: Mesh, id: string) =>
    codeOf(
      fetchTemplate({
        store,
        providers: () => templateProviders([owner.peerId], (...asked) => from.open(...asked)),
        id,
        name: null,
        signal: soon(),
      }),
    )
  expect(await fetched(other, templateId)).toBe('NOT_PERMITTED')
  expect(await fetched(other, `bafkrei${'a'.repeat(52)}`)).toBe('NOT_PERMITTED')
  expect(await fetched(friend, templateId)).toBe('resolved')
})

test('nothing is commanded, not even to show', async () => {
  const asked = (from: Mesh, command: Parameters<typeof ask>[2]) =>
    ask((...to) => from.open(...to), owner.peerId, command, { onProgress: () => {}, signal: soon() })
  for (const kind of ['show', 'pause', 'reset', 'remove'] as const) {
    await expect(asked(other, { kind, vm: 'web' })).rejects.toMatchObject({
      code: 'NOT_PERMITTED',
      outcome: 'refused',
      details: { action: 'command', peer: other.peerId },
    })
  }
  await expect(asked(friend, { kind: 'show', vm: 'web' })).rejects.toMatchObject({ code: 'QEMU_NOT_FOUND' })
  const seen = await Array.fromAsync(events.read({ recent: true, signal: AbortSignal.timeout(50) }))
  expect(seen).toContainEqual(
    expect.objectContaining({ kind: 'command-refused', peer: other.peerId, command: 'pause', vm: 'web' }),
  )
  const done = seen.filter(({ kind }) => kind === 'command-from-peer')
  expect(done.map(({ peer }) => peer)).toEqual([friend.peerId])
})

test('no console is opened', async () => {
  const request = consoleRequestCodec.encode({ vm: 'web' })
  const opened = async (from: Mesh) => consoleReplyCodec.decode(await answer(from, CONSOLE_PROTOCOL, request))
  expect(await opened(other)).toMatchObject({ kind: 'error', code: 'NOT_PERMITTED' })
  expect(await opened(friend)).toMatchObject({ kind: 'error', code: 'QEMU_NOT_FOUND' })
})

test('what became of a Grant is answered to everybody: doubts end', async () => {
  const names = { migrationId: randomUUID(), vmId, place: randomUUID() }
  const sides = { source: other.peerId, destination: owner.peerId }
  const grant = { ...names, ...sides, epoch: 2, digest: new Uint8Array(32) }
  const reply = await answer(other, HANDOVER_PROTOCOL, verdictRequestCodec.encode({ grant }))
  const { statement, signature } = signedCodec.decode(reply)
  expect(statementCodec.decode(statement).word).toBe('REFUSED')
  expect(await other.signatures.isSignedBy(owner.peerId, statement, signature)).toBe(true)
})
