import type { EventEmitter } from 'node:events'
import type { PeerInfo, PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import type { Level } from 'level'
import { steadyNowMs } from '../domain/clock.ts'
import { NO_FACTS, type NodeFacts, type NodeInventory } from '../domain/node.ts'
import { type DialableAddress, dialableAddress, dialableAddresses, isReachable } from './address.ts'
import { Announcements } from './announcements.ts'
import { Channels } from './channels.ts'
import { guardConnections } from './connection-guard.ts'
import { Directory, type NodeEvent } from './directory.ts'
import { MeshError } from './errors.ts'
import { nextIncarnation } from './incarnation.ts'
import { decodeJoinToken } from './join-token.ts'
import { loadIdentity, loadMeshKey } from './key-files.ts'
import type { MeshLog } from './log.ts'
import { mdnsTag } from './mdns-tag.ts'
import { MemberBook } from './member-book.ts'
import { type MemberEvent, Membership } from './membership.ts'
import { createNode, type MeshNode, type NodeInit } from './node.ts'
import { boundedLog } from './peer-log.ts'
import { ProviderRecords } from './provider-records.ts'
import { Removals } from './removals.ts'
import { PeerSignatures } from './signatures.ts'

export interface MeshComponents {
  /** Members are kept in its sublevel `members`, removed ones in `removals`, what announcing needs in `announcer`. */
  db: Level<string, unknown>
  log: MeshLog
  /** What this node says of itself; read some times a minute. Without it: that it is there. */
  facts?: () => NodeFacts | Promise<NodeFacts>
  /** All that it holds, for those who ask. */
  inventory?: () => NodeInventory
  /** Whether a node may remove others from the mesh, as far as this one goes; default: each may. */
  mayRemove?: (peerId: string) => boolean
}

export interface MeshInit {
  /** What this node calls itself; others may not share it. */
  name: string
  /** Multiaddrs such as `/ip4/0.0.0.0/tcp/0`. */
  listen: readonly string[]
  /** The identity and the mesh key are kept here. */
  dataDir: string
  /** Which mesh to join at the first start, and where; later it may be left out. */
  joinToken?: string
  /** Multiaddrs with peer ids that are dialled for as long as this node runs. */
  bootstrap?: readonly string[]
  /** Whether nodes of this mesh find each other in a LAN; never where only loopback is listened on. Default true. */
  mdns?: boolean
  /** How often a node of a small mesh announces itself; default BEAT_MS. */
  beatMs?: number
}

export const NO_INVENTORY: NodeInventory = { templates: [], vms: [] }

export type MeshEvents = EventEmitter<{ member: [MemberEvent]; directory: [NodeEvent] }>

/** What there is of a mesh only between start and stop. */
export interface MeshParts extends AsyncDisposable {
  node: MeshNode
  meshKey: Uint8Array
  signatures: PeerSignatures
  book: MemberBook
  removals: Removals
  membership: Membership
  channels: Channels
  directory: Directory
  announcements: Announcements
  records: ProviderRecords
}

/**
 * Brings a node up, each part on those before it; what fails takes down what
 * was up already. Resolves when it listens and has said its first word.
 *
 * @param components.serve - registers the channels of others before the node listens
 * @throws MeshError TOKEN_MALFORMED, MESH_ALREADY_JOINED, KEY_FILE_DAMAGED, BOOTSTRAP_INVALID, LISTEN_FAILED
 */
export async function startParts(
  components: MeshComponents & {
    events: MeshEvents
    serve: (parts: { node: MeshNode; channels: Channels }) => Promise<void>
  },
  init: MeshInit,
): Promise<MeshParts> {
  const { db, events, serve } = components
  const log = boundedLog(components.log)
  const { name, listen, dataDir, joinToken } = init
  const bootstrap = (init.bootstrap ?? []).map(bootstrapAddress)
  const token = joinToken === undefined ? null : decodeJoinToken(joinToken)
  const meshKey = await loadMeshKey(dataDir, token?.meshKey ?? null)
  const identity = await loadIdentity(dataDir)
  const selfId = peerIdFromPrivateKey(identity).toString()
  const removals = new Removals(
    { db, privateKey: identity, mayRemove: components.mayRemove ?? (() => true) },
    { selfId },
  )
  await removals.load()
  const isRemoved = (peerId: string) => removals.has(peerId)
  const isFound = (init.mdns ?? true) && listen.some(isReachable)
  const node = await openNode(identity, {
    meshKey,
    listen,
    isRemoved,
    ...(isFound ? { mdnsTag: mdnsTag(meshKey) } : {}),
  })
  const book = new MemberBook({ db }, { self: { peerId: selfId, name } })
  await book.load()
  // The agent may have ended between the two.
  for (const { peerId } of removals.all()) await book.remove(peerId)
  const channels = new Channels({ log })
  const directory = new Directory({ selfId, isRemoved })
  const membership = new Membership(
    {
      node,
      book,
      removals,
      channels,
      directory,
      log,
      onEvent: (event) => events.emit('member', event),
      onHello: (peerId) => announcements.onHello(peerId),
      onRemoved: (peerId) => {
        const event = directory.drop(peerId)
        if (event !== null) events.emit('directory', event)
      },
    },
    { name },
  )
  const records = new ProviderRecords({ dht: node.services.dht, log, isRemoved })
  const announcements = new Announcements(
    {
      node,
      privateKey: identity,
      directory,
      channels,
      dialer: membership.dialer,
      facts: components.facts ?? (() => NO_FACTS),
      inventory: components.inventory ?? (() => NO_INVENTORY),
      log,
      onEvent: (event) => events.emit('directory', event),
      onAnnounced: ({ templates }) => records.set(templates),
    },
    {
      name,
      incarnation: await nextIncarnation(db, steadyNowMs()),
      addresses: () => membership.addresses(),
      ...(init.beatMs === undefined ? {} : { beatMs: init.beatMs }),
    },
  )

  await using starting = new AsyncDisposableStack()
  const stopped = new MeshError('MESH_NOT_RUNNING', 'this node stops')
  starting.defer(() => node.stop())
  starting.defer(() => channels.stop())
  starting.defer(() => membership.stop(stopped))
  starting.defer(() => records.stop(stopped))
  starting.defer(() => announcements.stop(stopped))
  guardConnections(node, removals)
  await membership.prepare()
  await announcements.prepare()
  await serve({ node, channels })
  node.services.mdns?.addEventListener('peer', ({ detail }) => suggestFound(membership, detail))
  await startListening(node, listen)
  await announcements.start()
  membership.start(token?.addresses ?? [], bootstrap)
  const up = starting.move()
  const dispose = () => up.disposeAsync()
  return {
    node,
    meshKey,
    signatures: new PeerSignatures(identity),
    book,
    removals,
    membership,
    channels,
    directory,
    announcements,
    records,
    [Symbol.asyncDispose]: dispose,
  }
}

async function openNode(identity: PrivateKey, init: NodeInit): Promise<MeshNode> {
  try {
    return await createNode(identity, init)
  } catch (cause) {
    throw listenFailed(init.listen, cause)
  }
}

function bootstrapAddress(text: string): DialableAddress {
  const address = dialableAddress(text)
  if (address !== null) return address
  throw new MeshError('BOOTSTRAP_INVALID', `not an address to dial: ${text}`, { details: { address: text } })
}

function suggestFound(membership: Membership, { id, multiaddrs }: PeerInfo): void {
  const peerId = id.toString()
  membership.suggest(peerId, dialableAddresses(multiaddrs.map(String), peerId))
}

async function startListening(node: MeshNode, listen: readonly string[]): Promise<void> {
  try {
    await node.start()
  } catch (cause) {
    throw listenFailed(listen, cause)
  }
}

function listenFailed(listen: readonly string[], cause: unknown): MeshError {
  return new MeshError('LISTEN_FAILED', `can't listen on ${listen.join(', ')}: is the port in use?`, {
    cause,
    details: { listen },
  })
}
