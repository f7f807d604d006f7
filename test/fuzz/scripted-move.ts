import { zstdCompressSync } from 'node:zlib'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { compressDeviceState, PageHashes } from '../../src/codec/index.ts'
import { PAGE_BYTES, ZERO_PAGE } from '../../src/domain/page.ts'
import { PeerSignatures } from '../../src/mesh/signatures.ts'
import { sign } from '../../src/migration/grant.ts'
import { MIGRATE_PROTOCOL, PAGES_PROTOCOL } from '../../src/migration/index.ts'
import { deviceSections } from '../../src/qemu/index.ts'
import type { Channel } from '../../src/wire/channel.ts'
import {
  type ControlBody,
  type ControlMessage,
  controlCodec,
  MAX_CONTROL_BYTES,
  pagesCodec,
  pagesHelloCodec,
} from '../../src/wire/migration-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { someOffer, someVmSpec } from '../support/vm-spec.ts'
import { CHUNKS, machine } from '../template/fixture.ts'
import { Dice } from './dice.ts'
import type { FuzzNode } from './fuzz-node.ts'
import { outcomeOf } from './outcome.ts'
import { stateFile } from './state-file.ts'

const privateKey = await generateKeyPairFromSeed('Ed25519', Buffer.alloc(32, 7))
export const SOURCE = peerIdFromPrivateKey(privateKey).toString()
const signatures = new PeerSignatures(privateKey)

/** Noise, the same each time: an input is made again from its seed and index alone. */
const PAGE = new Dice(1).bytes(PAGE_BYTES)
const HASH_SEED = 1
const GUEST_PAGES = machine.memoryBytes / PAGE_BYTES
const DICTIONARY = stateFile(CHUNKS * 2 ** 20)
const DEVICE_STATE = Buffer.concat([Buffer.from('5145564d00000003', 'hex'), Buffer.alloc(64, 5)])
const compressedState = compressDeviceState(DEVICE_STATE, deviceSections(DICTIONARY))

/** What a source says in its turn; each may be changed before it goes out. */
export const STEPS = ['offer', 'hello', 'batch', 'roundEnd', 'finish', 'grant'] as const
export type Step = (typeof STEPS)[number]

export interface MoveEnd {
  /** What the destination said, in order. */
  heard: ControlMessage['kind'][]
  /** How its handlers ended. */
  outcomes: string[]
}

/**
 * A whole move to a node by the rules, but for one message.
 *
 * @param change - gets each message before it is sent; the one for which it returns bytes is the last
 */
export async function scriptedMove(
  node: FuzzNode,
  dice: Dice,
  change: (step: Step, bytes: Uint8Array) => Uint8Array | null,
): Promise<MoveEnd> {
  const move = new ScriptedMove(node, change)
  try {
    await move.run(offerOf(node, dice))
  } catch {
    // The destination hung up, as it may.
  }
  return move.leave(dice)
}

/** Of a VM that nobody else has. */
export function offerOf(node: FuzzNode, dice: Dice): ControlBody<'offer'> {
  const [id, migrationId, generationId] = [dice.uuid(), dice.uuid(), dice.uuid()]
  const vm = someVmSpec({ id, templateId: node.templateId, generationId })
  return someOffer({ migrationId, vm, hashSeed: HASH_SEED, machine })
}

class LastWordError extends Error {}

class ScriptedMove {
  readonly #node: FuzzNode
  readonly #change: (step: Step, bytes: Uint8Array) => Uint8Array | null
  readonly #channels: Channel[] = []
  readonly #served: Promise<string>[] = []
  readonly #heard: ControlMessage['kind'][] = []
  readonly #control: Channel

  constructor(node: FuzzNode, change: (step: Step, bytes: Uint8Array) => Uint8Array | null) {
    this.#node = node
    this.#change = change
    this.#control = this.#dial(MIGRATE_PROTOCOL)
  }

  async run(offer: ControlBody<'offer'>): Promise<void> {
    const { migrationId, vm } = offer
    await this.#say('offer', this.#control, controlCodec.encode(offer))
    const { place } = await this.#hear('accept')
    const pages = this.#dial(PAGES_PROTOCOL)
    await this.#say('hello', pages, pagesHelloCodec.encode({ migrationId }))
    await this.#hear('prepared')
    const hashes = new PageHashes(GUEST_PAGES, HASH_SEED)
    for (const [index, content] of [
      [3, PAGE],
      [5, ZERO_PAGE],
      [7, PAGE],
    ] as const)
      hashes.update(index, content)
    await this.#say('batch', pages, pagesCodec.encode({ kind: 'batch', round: 1, groups: GROUPS }))
    await this.#say('roundEnd', pages, pagesCodec.encode({ kind: 'roundEnd', round: 1, pages: 3 }))
    await this.#hear('roundApplied')
    const digest = hashes.digest(hashes.known)
    const finish: ControlMessage = {
      kind: 'finish',
      deviceState: compressedState,
      deviceStateBytes: DEVICE_STATE.length,
      digest,
      rounds: 1,
      pausedNs: 1000,
    }
    await this.#say('finish', this.#control, controlCodec.encode(finish))
    await this.#hear('ready')
    const grant = {
      migrationId,
      vmId: vm.id,
      epoch: 2,
      source: SOURCE,
      destination: this.#node.peerId,
      place,
      digest: Buffer.from(digest).toString('hex'),
    }
    const signed = await sign(signatures, 'GRANT', grant)
    await this.#say('grant', this.#control, controlCodec.encode({ kind: 'grant', ...signed }))
    await this.#hear('running')
  }

  /** Ends all channels; resolves when nothing of the move is served any more. */
  async leave(dice: Dice): Promise<MoveEnd> {
    const resets = dice.chance(0.2)
    for (const channel of this.#channels) {
      if (resets) channel.abort(new Error('the source is gone'))
      else await channel.close()
    }
    const outcomes = await Promise.all(this.#served)
    for (const channel of this.#channels) channel.abort(new Error('the source is gone'))
    return { heard: this.#heard, outcomes }
  }

  #dial(protocol: string): Channel {
    const [ours, theirs] = channelPair({ peers: [SOURCE, 'here'] })
    const served = this.#node
      .handler(protocol)(theirs, new AbortController().signal)
      .then(
        () => theirs.close(),
        (error: Error) => {
          theirs.abort(error)
          throw error
        },
      )
    const outcome = outcomeOf(served, `move, ${protocol}`)
    // Told when the move is left; until then nobody waits for a word that doesn't come.
    outcome.catch((error: Error) => this.#control.abort(error))
    this.#channels.push(ours)
    this.#served.push(outcome)
    return ours
  }

  async #say(step: Step, channel: Channel, bytes: Uint8Array): Promise<void> {
    const changed = this.#change(step, bytes)
    if (changed === null) return channel.send(bytes)
    // Not waited for: what is too large is never read, and given up when the move is left.
    channel.send(changed).catch(() => {})
    throw new LastWordError('nothing more to say')
  }

  async #hear<K extends ControlMessage['kind']>(kind: K): Promise<ControlBody<K>> {
    const bytes = await this.#control.receive({ maxBytes: MAX_CONTROL_BYTES })
    if (bytes === null) throw new Error(`the end in place of ${kind}`)
    const message = controlCodec.decode(bytes)
    this.#heard.push(message.kind)
    if (message.kind !== kind) throw new Error(`${message.kind} in place of ${kind}`)
    return message as ControlBody<K>
  }
}

const GROUPS = [
  { encoding: 'ENCODING_RAW' as const, indexDeltas: [3], data: PAGE },
  { encoding: 'ENCODING_ZERO' as const, indexDeltas: [5], data: Buffer.alloc(0) },
  { encoding: 'ENCODING_ZSTD' as const, indexDeltas: [7], data: zstdCompressSync(PAGE) },
]
