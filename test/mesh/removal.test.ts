/** Who is removed stays out: real nodes, their restarts, and peers that say what isn't so. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { MemberEvent } from '../../src/mesh/index.ts'
import {
  startNode,
  type TestNode,
  type TestNodeOptions,
  whenConnected,
  whenMembers,
} from '../support/mesh-pair.ts'
import { startRawPeer } from '../support/raw-peer.ts'

const soon = () => AbortSignal.timeout(10_000)
const STRANGER = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'

let dir: string
let stack: AsyncDisposableStack
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drover-removal-'))
  stack = new AsyncDisposableStack()
})
afterEach(async () => {
  await stack.disposeAsync()
  await rm(dir, { recursive: true })
})

/** A node that may be stopped and started again on its data and its port. */
class Restartable {
  readonly name: string
  readonly events: MemberEvent[] = []
  readonly #options: TestNodeOptions
  #node: TestNode | null = null

  constructor(name: string, options: TestNodeOptions) {
    this.name = name
    this.#options = options
  }

  static async start(name: string, options: TestNodeOptions = {}): Promise<Restartable> {
    const node = new Restartable(name, { dataDir: join(dir, name), ...options })
    stack.defer(() => node.stop())
    await node.start()
    return node
  }

  get mesh(): TestNode['mesh'] {
    return this.#node!.mesh
  }

  async start(): Promise<void> {
    this.#node = await startNode(this.name, {
      ...this.#options,
      onStarting: (mesh) => mesh.onMember((event) => this.events.push(event)),
    })
    // The next time at the same place, where the others look for it.
    this.#options.listen = this.mesh.addresses().map((address) => address.replace(/\/p2p\/.*/, ''))
  }

  async stop(): Promise<void> {
    const node = this.#node
    this.#node = null
    await node?.[Symbol.asyncDispose]()
  }

  kinds(): string[] {
    return this.events.map(({ kind }) => kind)
  }
}

async function three(): Promise<[Restartable, Restartable, Restartable]> {
  const a = await Restartable.start('a')
  const joinToken = a.mesh.token()
  const [b, c] = [await Restartable.start('b', { joinToken }), await Restartable.start('c', { joinToken })]
  await Promise.all([a, b, c].map(({ mesh }) => whenConnected(mesh, 3)))
  return [a, b, c]
}

const names = ({ mesh }: Restartable) => mesh.members().map(({ name }) => name)
const connected = ({ mesh }: Restartable) =>
  mesh.members().flatMap((member) => (member.connected && !member.self ? [member.name] : []))

test('a removed node stays out, whoever of the three restarts', { timeout: 30_000 }, async () => {
  const [a, b, c] = await three()
  const peerId = c.mesh.peerId
  expect(await a.mesh.remove('c')).toEqual({
    peerId,
    name: 'c',
    removedBy: a.mesh.peerId,
    atMs: expect.any(Number),
  })
  expect(names(a)).toEqual(['a', 'b'])
  await whenMembers(b.mesh, (members) => members.length === 2)
  expect(b.events.at(-1)).toEqual({ kind: 'member-removed', peerId, name: 'c', by: a.mesh.peerId })
  await expect.poll(() => c.kinds()).toContain('removed-from-mesh')
  await expect.poll(() => connected(c)).toEqual([])
  expect(a.mesh.directory().map(({ name }) => name)).not.toContain('c')

  for (const restarted of [c, a, b]) {
    await restarted.stop()
    await restarted.start()
    await Promise.all([whenConnected(a.mesh, 2), whenConnected(b.mesh, 2)])
    for (const [from, to] of [
      [a, c],
      [b, c],
    ] as const) {
      await expect(from.mesh.open(peerId, '/drover/hello/1', soon())).rejects.toMatchObject({
        code: 'PEER_REMOVED',
        outcome: 'refused',
      })
      // It still has the key, and may try.
      await expect(to.mesh.open(from.mesh.peerId, '/drover/hello/1', soon())).rejects.toMatchObject({
        code: 'PEER_UNREACHABLE',
      })
    }
    expect([names(a), names(b)]).toEqual([
      ['a', 'b'],
      ['b', 'a'],
    ])
  }
  expect(c.kinds().filter((kind) => kind === 'removed-from-mesh')).toHaveLength(2)
  expect(connected(c)).toEqual([])
})

test('a node that was away when it happened hears of it', { timeout: 30_000 }, async () => {
  const [a, b, c] = await three()
  await b.stop()
  await whenMembers(a.mesh, (members) => members.some(({ name, connected }) => name === 'b' && !connected))
  await a.mesh.remove('c')
  await b.start()
  await whenMembers(b.mesh, (members) => members.length === 2)
  await expect.poll(() => connected(b)).toEqual(['a'])
  await expect.poll(() => connected(c)).toEqual([])
  // Nobody is left who tells it: it knows by itself.
  await a.stop()
  await b.stop()
  await b.start()
  expect(names(b)).toEqual(['b', 'a'])
  expect(() => b.mesh.resolve('c')).toThrow(expect.objectContaining({ code: 'PEER_REMOVED' }))
})

test('who comes later never meets the removed one', async () => {
  const [a, , c] = await three()
  await a.mesh.remove('c')
  const d = await Restartable.start('d', { joinToken: a.mesh.token() })
  await whenConnected(d.mesh, 3)
  expect(names(d)).toEqual(['d', 'a', 'b'])
  await expect(c.mesh.connect(d.mesh.peerId, soon())).rejects.toMatchObject({ code: 'PEER_UNREACHABLE' })
  expect(() => d.mesh.resolve(c.mesh.peerId)).toThrow(expect.objectContaining({ code: 'PEER_REMOVED' }))
})

test('a peer that was never here is removed before it comes', async () => {
  const a = await Restartable.start('a')
  const key = await generateKeyPair('Ed25519')
  const peerId = peerIdFromPrivateKey(key).toString()
  expect(await a.mesh.remove(peerId)).toMatchObject({ peerId, name: null })
  const raw = await startRawPeer(a.mesh.token(), key)
  try {
    const dialling = raw.dial(a.mesh.addresses().map((address) => multiaddr(address)))
    // Its own side of noise is done before it hears that it isn't wanted.
    await dialling.catch(() => null)
    await expect.poll(() => raw.getConnections()).toEqual([])
    expect(names(a)).toEqual(['a'])
  } finally {
    await raw.stop()
  }
})

test('removing again changes nothing; oneself and nobody are refused', async () => {
  const [a, b] = await three()
  const removal = await a.mesh.remove('c')
  expect(await a.mesh.remove('c')).toEqual(removal)
  expect(await a.mesh.remove(removal.peerId)).toEqual(removal)
  await whenMembers(b.mesh, (members) => members.length === 2)
  expect(await b.mesh.remove('c')).toEqual(removal)
  await expect(a.mesh.remove('a')).rejects.toMatchObject({ code: 'PEER_IS_SELF', outcome: 'refused' })
  await expect(a.mesh.remove('nobody')).rejects.toMatchObject({ code: 'PEER_NOT_FOUND' })
  await expect(a.mesh.remove(`${STRANGER}x`)).rejects.toMatchObject({ code: 'PEER_NOT_FOUND' })
})

test('the word of a node that may not command is none, until it may', { timeout: 30_000 }, async () => {
  const a = await Restartable.start('a')
  const joinToken = a.mesh.token()
  const trusted = new Set<string>()
  const b = await Restartable.start('b', { joinToken, mayRemove: (peerId) => trusted.has(peerId) })
  const c = await Restartable.start('c', { joinToken })
  await Promise.all([a, b, c].map(({ mesh }) => whenConnected(mesh, 3)))
  await a.mesh.remove('c')
  await expect.poll(() => connected(a)).toEqual(['b'])
  expect(names(b)).toEqual(['b', 'a', 'c'])
  expect(connected(b)).toEqual(['a', 'c'])
  trusted.add(a.mesh.peerId)
  await b.stop()
  await b.start()
  await whenMembers(b.mesh, (members) => members.length === 2)
  trusted.clear()
  await b.stop()
  await b.start()
  expect(() => b.mesh.resolve(c.mesh.peerId)).not.toThrow(expect.objectContaining({ code: 'PEER_REMOVED' }))
})
