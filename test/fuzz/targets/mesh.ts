import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { RecordEnvelope } from '@libp2p/peer-record'
import { dialableAddresses } from '../../../src/mesh/address.ts'
import { sealAnnouncement } from '../../../src/mesh/announcement-envelope.ts'
import { AnnouncementIntake } from '../../../src/mesh/announcement-intake.ts'
import { Directory } from '../../../src/mesh/directory.ts'
import { fetchDirectory, serveDirectory } from '../../../src/mesh/directory-exchange.ts'
import { encodeHello, exchangeHellos } from '../../../src/mesh/hello.ts'
import { fetchInventory, serveInventory } from '../../../src/mesh/inventory.ts'
import { decodeJoinToken, encodeJoinToken } from '../../../src/mesh/join-token.ts'
import { parseRemoval } from '../../../src/mesh/removal-envelope.ts'
import type { Hello } from '../../../src/wire/mesh-messages.ts'
import { channelPair } from '../../support/channel-pair.ts'
import { someFacts, templateNo, vmNo } from '../../support/node-facts.ts'
import { attackClient, attackHandler } from '../attack-channel.ts'
import type { Dice } from '../dice.ts'
import { hostileMessage } from '../generate.ts'
import { mutate } from '../mutate.ts'
import { outcomeOf, outcomeOfCall } from '../outcome.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'
import { messageTarget } from './message-target.ts'

const DOMAIN = 'drover-announcement'
const PAYLOAD_TYPE = Buffer.from('/drover/announcement/1')
/** Authors that announce things: many, as what is older than an author's last word is weighed no further. */
const AUTHORS = 200
const SIGNAL_MS = 5_000

const keys = new Map<number, Promise<PrivateKey>>()
function keyOf(n: number): Promise<PrivateKey> {
  const key = keys.get(n) ?? generateKeyPairFromSeed('Ed25519', Buffer.alloc(32, n))
  keys.set(n, key)
  return key
}

const facts = someFacts({ templates: [templateNo(1)], vms: [vmNo(1)] })
const noHints = () => ({})

/** A directory and the one way into it. */
class Listener {
  readonly directory = new Directory({ selfId: 'here' })
  readonly #intake = new AnnouncementIntake({ directory: this.directory, onEvent: () => {} })
  /** Of the next announcement: old ones are weighed no further. */
  sequence = 10
  nowMs = 0

  offer(data: Uint8Array, from: string, ageMs: number) {
    // An author says two things a second at most.
    this.nowMs += 1000
    return this.#intake.offer(data, { from, nowMs: this.nowMs, ageMs })
  }

  /** Somebody says something that is right, and is heard. */
  async checkHeard(): Promise<void> {
    const content = { incarnation: 2 ** 41, validMs: 60_000, name: 'honest', addresses: [], facts }
    const bytes = await sealAnnouncement({ ...content, sequence: this.sequence++ }, await keyOf(200))
    const verdict = await this.offer(bytes, 'honest', 0)
    if (verdict !== 'accept') throw new FuzzFailure(`an honest announcement: ${verdict}`)
  }
}

/** An envelope with an announcement: the payload hostile and signed, or all of it changed after that. */
async function hostileEnvelope(dice: Dice): Promise<Buffer> {
  const digests = { templates: [Buffer.alloc(32, 5)], templatesTotal: [1], id: [Buffer.alloc(16, 6)] }
  const counts = {
    vmsTotal: [3, 9],
    template: [0, 1],
    templateDigest: [Buffer.alloc(0), Buffer.alloc(32, 4)],
  }
  const hints = { ...digests, ...counts, templateFilter: [Buffer.alloc(0)], sequence: [dice.below(2 ** 31)] }
  const payload = hostileMessage('drover.mesh.Announcement', hints, dice)
  const record = {
    domain: dice.chance(0.95) ? DOMAIN : 'libp2p-peer-record',
    codec: dice.chance(0.95) ? PAYLOAD_TYPE : dice.bytes(5),
    marshal: () => payload,
    equals: () => false,
  }
  const envelope = await RecordEnvelope.seal(record, await keyOf(dice.below(AUTHORS)))
  const bytes = Buffer.from(envelope.marshal())
  return dice.chance(0.3) ? mutate(bytes, payload, dice) : bytes
}

/** What gossip brings. */
export async function startAnnouncements(): Promise<FuzzTarget> {
  const listener = new Listener()
  return {
    name: 'announcements',
    async attack(dice) {
      const bytes = await hostileEnvelope(dice)
      const from = dice.chance(0.5)
        ? peerIdFromPrivateKey(await keyOf(dice.below(AUTHORS))).toString()
        : 'other'
      let verdict = 'none'
      const offered = listener.offer(bytes, from, dice.pick([0, 1, 10_000, 2 ** 53 - 1])).then((said) => {
        verdict = said
      })
      const outcome = await outcomeOf(offered, 'intake')
      listener.directory.views()
      return outcome === 'taken' ? verdict : outcome
    },
    checkHonest: () => listener.checkHeard(),
    async [Symbol.asyncDispose]() {},
  }
}

/** A peer that asks for this node's directory. */
export async function startDirectoryServer(): Promise<FuzzTarget> {
  const listener = new Listener()
  const handler = serveDirectory(listener.directory, () => listener.nowMs)
  return messageTarget({
    name: 'directory-server',
    says: ['drover.mesh.DirectoryRequest'],
    hints: noHints,
    attack: (attack) => attackHandler(handler, attack, 'directory server'),
    async checkHonest() {
      await listener.checkHeard()
      const [ours, theirs] = channelPair()
      const serving = handler(theirs, AbortSignal.timeout(SIGNAL_MS)).then(() => theirs.close())
      const other = new Listener()
      const taken = await fetchDirectory(
        ours,
        Buffer.alloc(0),
        (data, from, ageMs) => other.offer(data, from, ageMs),
        AbortSignal.timeout(SIGNAL_MS),
      )
      await serving
      if (taken !== 1) throw new FuzzFailure(`${taken} announcements of one`)
    },
  })
}

/** A peer that was asked for its directory. */
export async function startDirectoryClient(): Promise<FuzzTarget> {
  const listener = new Listener()
  return {
    name: 'directory-client',
    async attack(dice) {
      const envelope = [await hostileEnvelope(dice), await hostileEnvelope(dice)]
      const frame = () => hostileMessage('drover.mesh.DirectoryFrame', { envelope, ageMs: [0, 5] }, dice)
      return attackClient(
        (channel, signal) =>
          fetchDirectory(
            channel,
            Buffer.alloc(0),
            (data, from, ageMs) => listener.offer(data, from, ageMs),
            signal,
          ),
        { says: Array.from({ length: dice.below(4) }, frame), resets: dice.chance(0.1) },
        'directory client',
      )
    },
    checkHonest: () => listener.checkHeard(),
    async [Symbol.asyncDispose]() {},
  }
}

export async function startInventoryServer(): Promise<FuzzTarget> {
  const template = { id: templateNo(1), names: ['base'], memoryBytes: 4096 }
  const handler = serveInventory(() => ({ templates: [template], vms: [vmNo(1)] }))
  return messageTarget({
    name: 'inventory-server',
    says: ['drover.mesh.InventoryRequest'],
    hints: noHints,
    attack: (attack) => attackHandler(handler, attack, 'inventory server'),
    async checkHonest() {
      const [ours, theirs] = channelPair()
      const serving = handler(theirs, AbortSignal.timeout(SIGNAL_MS)).then(() => theirs.close())
      const { templates, vms } = await fetchInventory(ours, AbortSignal.timeout(SIGNAL_MS))
      await serving
      if (templates.length !== 1 || vms.length !== 1) throw new FuzzFailure('not the whole inventory')
    },
  })
}

export async function startInventoryClient(): Promise<FuzzTarget> {
  return messageTarget({
    name: 'inventory-client',
    says: ['drover.mesh.InventoryFrame', 'drover.mesh.InventoryFrame'],
    hints: (dice) => ({ id: [templateNo(dice.below(5)), dice.uuid()], templateId: [templateNo(1)] }),
    attack: (attack) =>
      attackClient((channel, signal) => fetchInventory(channel, signal), attack, 'inventory client'),
    async checkHonest() {},
  })
}

/** Either side of a hello, and what the membership makes of the addresses in it. */
export async function startHello(): Promise<FuzzTarget> {
  const own = encodeHello({ name: 'here', addresses: ['/ip4/127.0.0.1/tcp/4001'], members: [], removals: [] })
  const judge = async ({ removals }: Hello) => {
    for (const removal of removals) await parseRemoval(removal).verify()
  }
  const greet = async (channel: Parameters<typeof exchangeHellos>[0], signal: AbortSignal) => {
    const { addresses, members } = await exchangeHellos(channel, { own, judge }, signal)
    dialableAddresses(addresses, channel.peer)
    for (const { peerId, addresses: theirs } of members) dialableAddresses(theirs, peerId)
  }
  return messageTarget({
    name: 'hello',
    says: ['drover.mesh.Hello'],
    hints: noHints,
    attack: (attack) => attackClient(greet, attack, 'hello'),
    async checkHonest() {
      const [ours, theirs] = channelPair()
      const signal = AbortSignal.timeout(SIGNAL_MS)
      const [hello] = await Promise.all([exchangeHellos(ours, { own, judge }, signal), greet(theirs, signal)])
      if (hello.name !== 'here') throw new FuzzFailure('no hello')
    },
  })
}

/** What a person pastes. */
export async function startJoinToken(): Promise<FuzzTarget> {
  const address = `/ip4/127.0.0.1/tcp/4001/p2p/${peerIdFromPrivateKey(await keyOf(1))}`
  return {
    name: 'join-token',
    async attack(dice) {
      const bytes = hostileMessage('drover.mesh.JoinToken', { addresses: [address] }, dice)
      const token = dice.chance(0.9) ? bytes.toString('base64url') : bytes.toString('latin1')
      return outcomeOfCall(() => decodeJoinToken(token), 'join token')
    },
    async checkHonest() {
      const { addresses } = decodeJoinToken(encodeJoinToken(Buffer.alloc(32, 1), [address]))
      if (addresses.length !== 1) throw new FuzzFailure('no address')
    },
    async [Symbol.asyncDispose]() {},
  }
}
