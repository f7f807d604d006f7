import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { MemberEvent } from '../../src/mesh/index.ts'
import { encodeJoinToken } from '../../src/mesh/join-token.ts'
import { openBothEnds } from '../support/mesh-channels.ts'
import { startMesh, startNode, whenConnected, whenMembers } from '../support/mesh-pair.ts'

const soon = () => AbortSignal.timeout(10_000)

test('a node joins by a token', async () => {
  await using first = await startNode('first')
  await using second = await startNode('second', { joinToken: first.mesh.token() })
  await Promise.all([whenConnected(first.mesh, 2), whenConnected(second.mesh, 2)])
  const [self, other] = second.mesh.members()
  expect(self).toMatchObject({ name: 'second', peerId: second.mesh.peerId, self: true, connected: true })
  expect(other).toMatchObject({ name: 'first', peerId: first.mesh.peerId, self: false, connected: true })
  expect(other?.addresses).toEqual(first.mesh.addresses())
})

test('nodes that know only one of them find each other', async () => {
  await using group = await startMesh(3)
  const [, n1, n2] = group.nodes
  await using ends = await openBothEnds(n1!, n2!)
  await ends.left.send(Buffer.from('straight'))
  expect(Buffer.from((await ends.right.receive({ maxBytes: 100 }))!).toString()).toBe('straight')
})

test('twelve nodes on one machine find each other', { timeout: 60_000 }, async () => {
  await using group = await startMesh(12)
  expect(group.nodes.map((node) => node.members().filter(({ connected }) => connected).length)).toEqual(
    Array.from({ length: 12 }, () => 12),
  )
})

test('names and peer ids lead to nodes', async () => {
  await using group = await startMesh(2)
  const [n0, n1] = group.nodes
  expect(n0!.resolve('n1')).toBe(n1!.peerId)
  expect(n0!.resolve(n1!.peerId)).toBe(n1!.peerId)
  expect(n0!.resolve('n0')).toBe(n0!.peerId)
  expect(() => n0!.resolve('n2')).toThrow(
    expect.objectContaining({ code: 'PEER_NOT_FOUND', outcome: 'refused' }),
  )
  expect(await n0!.ping('n1', { signal: soon() })).toBeGreaterThan(0)
  expect(n0!.members()[1]!.rttMs).toBeGreaterThan(0)
})

test('a name that two nodes have leads to neither', async () => {
  await using first = await startNode('first')
  const joinToken = first.mesh.token()
  await using _a = await startNode('twin', { joinToken })
  await using _b = await startNode('twin', { joinToken })
  await whenConnected(first.mesh, 3)
  expect(() => first.mesh.resolve('twin')).toThrow(expect.objectContaining({ code: 'PEER_AMBIGUOUS' }))
})

test('a restart keeps identity and members, and needs no token', async () => {
  await using first = await startNode('first')
  const dataDir = await mkdtemp(join(tmpdir(), 'drover-mesh-'))
  let peerId: string
  {
    await using second = await startNode('second', { dataDir, joinToken: first.mesh.token() })
    await whenConnected(second.mesh, 2)
    peerId = second.mesh.peerId
  }
  await whenMembers(first.mesh, ([, second]) => second?.connected === false && second.rttMs === null)
  {
    await using second = await startNode('second', { dataDir })
    expect(second.mesh.peerId).toBe(peerId)
    await Promise.all([whenConnected(first.mesh, 2), whenConnected(second.mesh, 2)])
    expect(first.mesh.members()[1]?.addresses).toEqual(second.mesh.addresses())
  }
  await rm(dataDir, { recursive: true })
})

test('a member that comes back at the same address is found without its help', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'drover-mesh-'))
  const first = await startNode('first', { dataDir })
  await using second = await startNode('second', { joinToken: first.mesh.token() })
  await whenConnected(second.mesh, 2)
  const listen = first.mesh.addresses().map((address) => address.replace(/\/p2p\/.*/, ''))
  const events: MemberEvent[] = []
  second.mesh.onMember((event) => events.push(event))
  await first[Symbol.asyncDispose]()
  await whenMembers(second.mesh, ([, other]) => other?.connected === false)
  // Its list of members is gone: it can only wait.
  await rm(join(dataDir, 'db'), { recursive: true })
  {
    await using again = await startNode('first', { dataDir, listen })
    await Promise.all([whenConnected(again.mesh, 2), whenConnected(second.mesh, 2)])
  }
  expect(events.slice(0, 2).map(({ kind, name }) => [kind, name])).toEqual([
    ['member-disconnected', 'first'],
    ['member-connected', 'first'],
  ])
  await rm(dataDir, { recursive: true })
})

test('events tell who joins, comes and goes', async () => {
  await using first = await startNode('first')
  const seen: string[] = []
  const unsubscribe = first.mesh.onMember(({ kind, name }) => seen.push(`${kind} ${name}`))
  const joinToken = first.mesh.token()
  {
    await using _second = await startNode('second', { joinToken })
    await whenConnected(first.mesh, 2)
  }
  await whenMembers(first.mesh, ([, second]) => second?.connected === false)
  expect(seen).toEqual(['member-joined second', 'member-connected second', 'member-disconnected second'])
  unsubscribe()
  await using third = await startNode('third', { joinToken })
  await whenConnected(third.mesh, 2)
  expect(seen).toHaveLength(3)
})

test('without the mesh key nobody gets in', async () => {
  await using first = await startNode('first')
  await using stranger = await startNode('stranger', {
    joinToken: encodeJoinToken(Buffer.alloc(32, 1), first.mesh.addresses()),
  })
  const opening = stranger.mesh.open(first.mesh.peerId, '/drover/hello/1', soon())
  await expect(opening).rejects.toMatchObject({ code: 'PEER_UNREACHABLE' })
  expect(first.mesh.members()).toHaveLength(1)
  expect(stranger.mesh.members()).toHaveLength(1)
})

test('a node of one mesh does not join another', async () => {
  await using first = await startNode('first')
  const dataDir = await mkdtemp(join(tmpdir(), 'drover-mesh-'))
  await (await startNode('second', { dataDir }))[Symbol.asyncDispose]()
  const joining = startNode('second', { dataDir, joinToken: first.mesh.token() })
  await expect(joining).rejects.toMatchObject({ code: 'MESH_ALREADY_JOINED', outcome: 'refused' })
  await rm(dataDir, { recursive: true })
})

test('keys are for the owner of the data directory alone', async () => {
  await using node = await startNode('node')
  const files = (await readdir(node.dataDir)).filter((file) => file !== 'db')
  expect(files.toSorted()).toEqual(['identity.key', 'mesh.key'])
  for (const file of files) expect((await stat(join(node.dataDir, file))).mode & 0o777).toBe(0o600)
})

test.for(['identity.key', 'mesh.key'])('a damaged %s is named, not replaced', async (file) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'drover-mesh-'))
  await writeFile(join(dataDir, file), 'x')
  await expect(startNode('node', { dataDir })).rejects.toMatchObject({ code: 'KEY_FILE_DAMAGED' })
  expect((await stat(join(dataDir, file))).size).toBe(1)
  await rm(dataDir, { recursive: true })
})

test('an address in use is an error that says so', async () => {
  await using first = await startNode('first')
  const listen = first.mesh.addresses().map((address) => address.replace(/\/p2p\/.*/, ''))
  await expect(startNode('second', { listen })).rejects.toMatchObject({
    code: 'LISTEN_FAILED',
    details: { listen },
  })
  await expect(startNode('second', { listen: ['port 4001'] })).rejects.toMatchObject({
    code: 'LISTEN_FAILED',
  })
})

test('a peer that is not there is unreachable, and a signal ends the wait for it', async () => {
  await using first = await startNode('first')
  const gone = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'
  await expect(first.mesh.connect(gone, soon())).rejects.toMatchObject({ code: 'PEER_UNREACHABLE' })
  await expect(first.mesh.open('nobody', '/x/1', soon())).rejects.toMatchObject({ code: 'PEER_NOT_FOUND' })
  const reason = new Error('called off')
  await expect(first.mesh.open(gone, '/x/1', AbortSignal.abort(reason))).rejects.toBe(reason)
})

test('a protocol that a peer does not speak is an error of its own', async () => {
  await using group = await startMesh(2)
  const [n0, n1] = group.nodes
  await expect(n0!.open(n1!.peerId, '/drover/none/1', soon())).rejects.toMatchObject({
    code: 'PROTOCOL_UNSUPPORTED',
  })
})

test('a handler that fails resets its channel; one that is done ends it', async () => {
  await using group = await startMesh(2)
  const [n0, n1] = group.nodes
  await n1!.handle('/drover/fails/1', async () => {
    throw new Error('no')
  })
  await n1!.handle('/drover/works/1', async (channel) => channel.send(Buffer.from('yes')))
  const failing = await n0!.open(n1!.peerId, '/drover/fails/1', soon())
  await expect(failing.receive({ maxBytes: 10 })).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  const working = await n0!.open(n1!.peerId, '/drover/works/1', soon())
  expect(await working.receive({ maxBytes: 10 })).toHaveLength(3)
  expect(await working.receive({ maxBytes: 10 })).toBeNull()
  await working.close()
})

test('a peer opens no more channels than a handler allows', async () => {
  await using group = await startMesh(2)
  const [n0, n1] = group.nodes
  const until = Promise.withResolvers<void>()
  await n1!.handle('/drover/few/1', (channel) => channel.send(Buffer.from('in')).then(() => until.promise), {
    maxInboundStreams: 2,
  })
  for (let index = 0; index < 2; index++) {
    const channel = await n0!.open(n1!.peerId, '/drover/few/1', soon())
    expect(await channel.receive({ maxBytes: 10 })).toHaveLength(2)
  }
  const third = await n0!.open(n1!.peerId, '/drover/few/1', soon())
  await expect(third.receive({ maxBytes: 10 })).rejects.toMatchObject({ code: 'CHANNEL_RESET' })
  until.resolve()
})

test('a node that stops resets its channels, so that nobody takes it for an end', async () => {
  await using first = await startNode('first')
  const second = await startNode('second', { joinToken: first.mesh.token() })
  await whenConnected(first.mesh, 2)
  const ends = await openBothEnds(first.mesh, second.mesh)
  const receiving = expect(ends.left.receive({ maxBytes: 10 })).rejects.toMatchObject({
    code: 'CHANNEL_RESET',
  })
  const served = expect(ends.right.receive({ maxBytes: 10 })).rejects.toMatchObject({
    code: 'CHANNEL_CLOSED',
  })
  await second[Symbol.asyncDispose]()
  await Promise.all([receiving, served])
})

test('what is not running says so', async () => {
  const node = await startNode('node')
  await node[Symbol.asyncDispose]()
  expect(() => node.mesh.token()).toThrow(expect.objectContaining({ code: 'MESH_NOT_RUNNING' }))
  await expect(node.mesh.open('x', '/x/1', soon())).rejects.toMatchObject({ code: 'MESH_NOT_RUNNING' })
})
