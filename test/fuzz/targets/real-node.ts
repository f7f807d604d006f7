import { once } from 'node:events'
import { createConnection } from 'node:net'
import { DIRECTORY_PROTOCOL } from '../../../src/mesh/directory-exchange.ts'
import { HELLO_PROTOCOL } from '../../../src/mesh/hello.ts'
import { INVENTORY_PROTOCOL } from '../../../src/mesh/inventory.ts'
import { decodeJoinToken } from '../../../src/mesh/join-token.ts'
import { startNode } from '../../support/mesh-pair.ts'
import { MeshProcess } from '../../support/mesh-process.ts'
import { startRawPeer } from '../../support/raw-peer.ts'
import type { Dice } from '../dice.ts'
import { hostileMessage } from '../generate.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'

const TYPES = {
  [HELLO_PROTOCOL]: 'drover.mesh.Hello',
  [DIRECTORY_PROTOCOL]: 'drover.mesh.DirectoryRequest',
  [INVENTORY_PROTOCOL]: 'drover.mesh.InventoryRequest',
} as const
const PROTOCOLS = Object.keys(TYPES) as (keyof typeof TYPES)[]
/** Of libp2p itself, below drover's. */
const FOREIGN = ['/ipfs/ping/1.0.0', '/ipfs/id/1.0.0', '/drover/kad/1', '/meshsub/1.1.0']

const DIAL_MS = 10_000
/** An honest question and its answer, on a machine that does much else: milliseconds where it is idle. */
const MAX_HONEST_MS = 5_000

/** Our frame with a length that lies, half of one, or none at all. */
function rawBytes(payload: Buffer, dice: Dice): Buffer {
  const header = Buffer.alloc(4)
  header.writeUInt32BE(
    dice.pick([payload.length, payload.length, 0, 1, payload.length + 1, 2 ** 31, 2 ** 32 - 1]),
  )
  const frame = Buffer.concat([header, payload])
  if (dice.chance(0.2)) return frame.subarray(0, dice.below(frame.length))
  return dice.chance(0.2) ? dice.bytes(dice.between(1, 500)) : frame
}

/** A real node in a process of its own: bytes on libp2p's streams, and on the bare connection below them. */
export async function startRealNode(): Promise<FuzzTarget> {
  await using starting = new AsyncDisposableStack()
  const victim = starting.use(await MeshProcess.start('victim', {}))
  const { token, peerId } = victim.last!
  const honest = starting.use(await startNode('honest', { joinToken: token }))
  const raw = starting.adopt(await startRawPeer(token), (peer) => peer.stop())
  const addresses = decodeJoinToken(token).addresses.map(({ address }) => address)
  const { host, port } = hostAndPort(addresses[0]!.toString())
  const opened = starting.move()

  async function onStream(dice: Dice): Promise<string> {
    const ours = dice.pick(PROTOCOLS)
    const protocol = dice.chance(0.8) ? ours : dice.pick(FOREIGN)
    const bytes = rawBytes(hostileMessage(TYPES[ours], {}, dice), dice)
    const stream = await raw.dialProtocol(addresses, protocol, { signal: AbortSignal.timeout(DIAL_MS) })
    stream.send(bytes)
    if (dice.chance(0.5)) stream.abort(new Error('gone'))
    else await stream.close({ signal: AbortSignal.timeout(DIAL_MS) })
    return protocol
  }

  async function belowLibp2p(dice: Dice): Promise<string> {
    const socket = createConnection({ host, port })
    socket.on('error', () => {})
    socket.resume()
    await once(socket, 'connect', { signal: AbortSignal.timeout(DIAL_MS) })
    socket.end(dice.bytes(dice.between(1, 500)))
    socket.destroySoon()
    return 'garbage in place of a handshake'
  }

  async function askHonestly(): Promise<void> {
    const startMs = performance.now()
    await honest.mesh.inventoryOf(peerId, { signal: AbortSignal.timeout(MAX_HONEST_MS) })
    const tookMs = performance.now() - startMs
    if (tookMs > MAX_HONEST_MS) throw new FuzzFailure(`an honest node was answered after ${tookMs} ms`)
  }

  return {
    name: 'real-node',
    async attack(dice) {
      // Somebody else asks while it goes on. The node may hang up on whoever attacks.
      const asking = dice.chance(0.1) ? askHonestly() : null
      const attacking = dice.chance(0.05) ? belowLibp2p(dice) : onStream(dice).catch(() => 'cut off')
      const [outcome] = await Promise.all([attacking, asking])
      return outcome
    },
    checkHonest: askHonestly,
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  }
}

/** @param address - `/ip4/HOST/tcp/PORT/...` */
function hostAndPort(address: string): { host: string; port: number } {
  const [, , host, , port] = address.split('/')
  return { host: host!, port: Number(port) }
}
