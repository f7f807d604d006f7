import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { CID } from 'multiformats/cid'
import { expect, test } from 'vitest'
import type { NodeFacts } from '../../src/domain/node.ts'
import { sealAnnouncement } from '../../src/mesh/announcement-envelope.ts'
import { ANNOUNCE_TOPIC } from '../../src/mesh/gossip.ts'
import type { MeshLog } from '../../src/mesh/index.ts'
import { decodeJoinToken, encodeJoinToken } from '../../src/mesh/join-token.ts'
import { mdnsTag } from '../../src/mesh/mdns-tag.ts'
import { ProviderRecords } from '../../src/mesh/provider-records.ts'
import { startMesh, startNode, whenConnected, whenMembers } from '../support/mesh-pair.ts'
import { MeshProcess } from '../support/mesh-process.ts'
import { someFacts, templateNo, vmNo } from '../support/node-facts.ts'
import { dialRaw, startRawPeer } from '../support/raw-peer.ts'

const run = promisify(execFile)
const soon = () => AbortSignal.timeout(10_000)
const QUIET: MeshLog = { debug: () => undefined, info: () => undefined, warn: () => undefined }

test('a template that no announcement named is found by its provider record', async () => {
  await using group = await startMesh(3)
  const [n0, , n2] = group.nodes
  const silent = await startRawPeer(n0!.token())
  try {
    await dialRaw(silent, n0!, '/ipfs/ping/1.0.0')
    for await (const _ of silent.services.dht.provide(CID.parse(templateNo(9)), { signal: soon() })) {
      // Each event is a step of the walk.
    }
    expect(n2!.directory().map(({ name }) => name)).not.toContain('silent')
    expect(await n2!.providersOf(templateNo(9), { signal: soon() })).toEqual([silent.peerId.toString()])
    expect(await n2!.providersOf(templateNo(8), { signal: soon() })).toEqual([])
  } finally {
    await silent.stop()
  }
})

test('a node whose directory is empty finds who announced a template', { timeout: 30_000 }, async () => {
  const facts = () => someFacts({ templates: [templateNo(3)] })
  await using group = await startMesh(3, (index) => (index === 1 ? { facts } : {}))
  const [n0, n1] = group.nodes
  const newcomer = await startRawPeer(n0!.token())
  const records = new ProviderRecords({ dht: newcomer.services.dht, log: QUIET, isRemoved: () => false })
  try {
    await dialRaw(newcomer, n0!, '/ipfs/ping/1.0.0')
    const found = async () => (await records.find(templateNo(3), soon())).map(({ peerId }) => peerId)
    await expect.poll(found, { timeout: 20_000 }).toEqual([n1!.peerId])
  } finally {
    await records.stop(new Error('the test is over'))
    await newcomer.stop()
  }
})

test('a member that sends provider records without end fills its own share', {
  timeout: 60_000,
}, async () => {
  await using group = await startMesh(2)
  const [n0, n1] = group.nodes
  const flooding = await startRawPeer(n0!.token())
  try {
    await dialRaw(flooding, n0!, '/ipfs/ping/1.0.0')
    await dialRaw(flooding, n1!, '/ipfs/ping/1.0.0')
    const provide = async (index: number) => {
      for await (const _ of flooding.services.dht.provide(CID.parse(templateNo(index)), { signal: soon() })) {
        // Each event is a step of the walk.
      }
    }
    await provide(0)
    for (let index = 1; index < 1200; index += 50) {
      await Promise.all(Array.from({ length: 50 }, (_, at) => provide(index + at)))
    }
  } finally {
    await flooding.stop()
  }
  // It can't be asked itself any more: what is found is what others keep.
  const providersOf = (index: number) => n1!.providersOf(templateNo(index), { signal: soon() })
  expect(await providersOf(0)).toEqual([flooding.peerId.toString()])
  expect(await providersOf(1199)).toEqual([])
})

test('providers are those that announced a template, the nearest connected one first', async () => {
  const many = Array.from({ length: 100 }, (_, index) => templateNo(index))
  const holds: Record<number, NodeFacts> = {
    1: someFacts({ templates: [templateNo(1)] }),
    2: someFacts({ templates: many }),
  }
  await using group = await startMesh(4, (index) => ({ facts: () => holds[index] ?? someFacts() }))
  const [n0, n1, n2] = group.nodes
  await expect.poll(() => n0!.directory().length).toBe(4)
  const both = await n0!.providersOf(templateNo(1), { signal: soon() })
  expect(both.toSorted()).toEqual([n1!.peerId, n2!.peerId].toSorted())
  const rttOf = (peerId: string) => n0!.members().find((member) => member.peerId === peerId)!.rttMs!
  await n0!.ping('n1', { signal: soon() })
  await n0!.ping('n2', { signal: soon() })
  const sorted = await n0!.providersOf(templateNo(1), { signal: soon() })
  expect(rttOf(sorted[0]!)).toBeLessThanOrEqual(rttOf(sorted[1]!))
})

test('what has no room in an announcement is there for the asking', async () => {
  const templates = Array.from({ length: 300 }, (_, index) => templateNo(index))
  const vms = Array.from({ length: 100 }, (_, index) => vmNo(index, templateNo(index)))
  await using first = await startNode('first')
  await using second = await startNode('second', {
    joinToken: first.mesh.token(),
    facts: () => someFacts({ templates, vms }),
    inventory: () => ({
      templates: templates.map((id, index) => ({ id, names: [`t-${index}`], memoryBytes: 2 ** 29 })),
      vms,
    }),
  })
  await expect.poll(() => first.mesh.directory().length).toBe(2)
  expect(first.mesh.directory()[1]).toMatchObject({
    templatesListed: false,
    templatesTotal: 300,
    vmsListed: false,
    vmsTotal: 100,
  })
  const inventory = await first.mesh.inventoryOf(second.mesh.peerId, { signal: soon() })
  expect(inventory.templates).toHaveLength(300)
  expect(inventory.templates[299]).toEqual({ id: templateNo(299), names: ['t-299'], memoryBytes: 2 ** 29 })
  expect(inventory.vms).toEqual(vms)
  expect(await first.mesh.inventoryOf(first.mesh.peerId, { signal: soon() })).toEqual({
    templates: [],
    vms: [],
  })
})

test('a node that was never met is found by its announcement', async () => {
  await using group = await startMesh(2)
  const [n0, n1] = group.nodes
  // It announces itself, and says hello to nobody: only gossip tells n1 of it.
  const key = await generateKeyPair('Ed25519')
  const distant = await startRawPeer(n0!.token(), key)
  try {
    await dialRaw(distant, n0!, '/ipfs/ping/1.0.0')
    await expect.poll(() => distant.services.gossip.getSubscribers(ANNOUNCE_TOPIC)).toHaveLength(1)
    const addresses = distant.getMultiaddrs().map(String)
    const content = { incarnation: 1, sequence: 1, validMs: 60_000, name: 'distant', addresses }
    await distant.services.gossip.publish(
      ANNOUNCE_TOPIC,
      await sealAnnouncement({ ...content, facts: someFacts() }, key),
    )
    await expect.poll(() => n1!.directory().map(({ name }) => name)).toContain('distant')
    expect(n1!.members()).toHaveLength(2)
    expect(n1!.resolve('distant')).toBe(distant.peerId.toString())
    expect(await n1!.ping('distant', { signal: soon() })).toBeGreaterThan(0)
  } finally {
    await distant.stop()
  }
})

test('an address to bootstrap from is dialled until somebody is there', async () => {
  await using first = await startNode('first')
  const listen = first.mesh.addresses().map((address) => address.replace(/\/p2p\/.*/, ''))
  const { mesh } = first
  // The key of the mesh, and no address that is right: only the bootstrap leads there.
  const { meshKey } = decodeJoinToken(mesh.token())
  const nowhere = `/ip4/127.0.0.1/tcp/9/p2p/${mesh.peerId}`
  await using second = await startNode('second', {
    joinToken: encodeJoinToken(meshKey, [nowhere]),
    bootstrap: [`${listen[0]}/p2p/${mesh.peerId}`],
  })
  await whenConnected(second.mesh, 2)
  await whenMembers(mesh, (members) => members.length === 2)
})

test('an address to bootstrap from that can not be dialled is named', async () => {
  const starting = startNode('node', { bootstrap: ['/dns4/example.org/tcp/1'] })
  await expect(starting).rejects.toMatchObject({ code: 'BOOTSTRAP_INVALID' })
})

test('meshes have different names in a LAN, and none tells its key', () => {
  const [a, b] = [randomBytes(32), randomBytes(32)]
  expect(mdnsTag(a)).toMatch(/^_drover-[0-9a-f]{16}\._udp\.local$/)
  expect(mdnsTag(a)).toBe(mdnsTag(Buffer.from(a)))
  expect(mdnsTag(a)).not.toBe(mdnsTag(b))
})

/** Two hosts on one Ethernet. */
async function lan(): Promise<AsyncDisposable & { prefixes: string[][] }> {
  const names = [`drover-mdns-a-${process.pid}`, `drover-mdns-b-${process.pid}`]
  const dispose = async () => {
    for (const name of names) await run('ip', ['netns', 'del', name]).catch(() => undefined)
  }
  try {
    for (const name of names) await run('ip', ['netns', 'add', name])
    const peer = ['peer', 'name', 'veth0', 'netns', names[1]!]
    await run('ip', ['link', 'add', 'veth0', 'netns', names[0]!, 'type', 'veth', ...peer])
    for (const [index, name] of names.entries()) {
      await run('ip', ['-n', name, 'addr', 'add', `10.98.0.${index + 1}/24`, 'dev', 'veth0'])
      await run('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
      await run('ip', ['-n', name, 'link', 'set', 'veth0', 'up', 'multicast', 'on'])
      await run('ip', ['-n', name, 'route', 'add', '224.0.0.0/4', 'dev', 'veth0'])
    }
    return { prefixes: names.map((name) => ['ip', 'netns', 'exec', name]), [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

test.skipIf(process.getuid?.() !== 0)(
  'nodes of one mesh find each other in a LAN, those of others do not',
  { timeout: 60_000 },
  async () => {
    await using hosts = await lan()
    const [here, there] = hosts.prefixes
    const listen = ['/ip4/0.0.0.0/tcp/0']
    const key = randomBytes(32)
    // One key, and no address of each other.
    const gone = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'
    const joinToken = encodeJoinToken(key, [`/ip4/127.0.0.1/tcp/9/p2p/${gone}`])
    await using first = await MeshProcess.start('first', { listen, joinToken }, here)
    await using stranger = await MeshProcess.start('stranger', { listen }, there)
    const startMs = performance.now()
    await using second = await MeshProcess.start('second', { listen, joinToken }, there)
    await Promise.all([
      first.until(({ connected }) => connected.length === 2),
      second.until(({ connected }) => connected.length === 2),
    ])
    console.log(`found each other by mDNS ${Math.round(performance.now() - startMs)} ms after the start`)
    expect(first.last!.connected).toEqual(['first', 'second'])
    expect(stranger.last!.connected).toEqual(['stranger'])
  },
)
