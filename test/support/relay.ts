/**
 * The only way between the nodes: a relay of TCP connections whose two
 * directions can be held, slowed and corrupted, each by itself. Runs as a
 * process of its own in the network's hub: `node relay.ts ROUTES`, told what
 * to do over IPC by `relay-control.ts`.
 *
 *     node a  --- a dials --->  [ gate a>b ]  --->  node b
 *             <---------------  [ gate b>a ]  <---
 *
 * What b sends passes the gate b>a on connections that a dialled as well as on
 * those of its own. A held gate is a cable that is cut: bytes wait, nothing is
 * lost, not even the end of a connection gets through.
 */
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** One node's door to another one. */
export interface Route {
  from: string
  to: string
  /** Where `from` dials to reach `to`. */
  listen: { host: string; port: number }
  /** Where `to` listens. */
  target: { host: string; port: number }
}

/** What happens to bytes that one node sends to another one. */
export interface GateState {
  held: boolean
  /** Before each piece of up to 64 KiB; 0: none. */
  delayMs: number
  /** How long the link is: what goes in comes out so much later, and more may follow meanwhile. */
  latencyMs: number
  /** null: as fast as it goes. */
  bytesPerSecond: number | null
  /** The next piece arrives with one byte changed. */
  flip: boolean
}

export const OPEN_GATE: GateState = {
  held: false,
  delayMs: 0,
  latencyMs: 0,
  bytesPerSecond: null,
  flip: false,
}

/** `set` a gate, or `reset` all connections between two nodes. */
export type RelayCommand =
  | { kind: 'set'; id: number; from: string; to: string; state: GateState }
  | { kind: 'reset'; id: number; from: string; to: string }

/** On a long link so much is on its way at most: 1 Gbit/s. */
const LINE_BYTES_PER_MS = 125_000

class Gate {
  state: GateState = OPEN_GATE
  #changed = Promise.withResolvers<void>()

  set(state: GateState): void {
    this.state = state
    this.#changed.resolve()
    this.#changed = Promise.withResolvers<void>()
  }

  async opened(): Promise<void> {
    while (this.state.held) await this.#changed.promise
  }

  async pass(bytes: Buffer): Promise<Buffer> {
    const { delayMs, bytesPerSecond } = this.state
    const takesMs = delayMs + (bytesPerSecond === null ? 0 : (bytes.length / bytesPerSecond) * 1000)
    if (takesMs > 0) await sleep(takesMs)
    await this.opened()
    if (!this.state.flip || bytes.length === 0) return bytes
    this.state = { ...this.state, flip: false }
    const middle = bytes.length >> 1
    bytes[middle] = bytes[middle]! ^ 0x10
    return bytes
  }
}

/** What goes in at one end of a long link, as it comes out at the other. Without latency: one piece at a time. */
async function* along(pieces: AsyncIterable<Buffer>, gate: Gate): AsyncGenerator<Buffer> {
  const line: { piece: Buffer; dueMs: number }[] = []
  const end: { error: unknown; isReached: boolean; isLeft: boolean } = {
    error: null,
    isReached: false,
    isLeft: false,
  }
  let onWayBytes = 0
  let changed = Promise.withResolvers<void>()
  const change = () => {
    changed.resolve()
    changed = Promise.withResolvers<void>()
  }
  const fill = async () => {
    for await (const piece of pieces) {
      const { latencyMs } = gate.state
      line.push({ piece, dueMs: performance.now() + latencyMs })
      onWayBytes += piece.length
      change()
      while (onWayBytes > latencyMs * LINE_BYTES_PER_MS && !end.isLeft) await changed.promise
      if (end.isLeft) return
    }
  }
  const filled = fill()
    .catch((error) => Object.assign(end, { error }))
    .finally(() => {
      end.isReached = true
      change()
    })
  try {
    while (line.length > 0 || !end.isReached) {
      const next = line.shift()
      if (next === undefined) {
        await changed.promise
        continue
      }
      // Timers count whole milliseconds, and end early rather than late.
      const leftMs = Math.ceil(next.dueMs - performance.now())
      if (leftMs > 0) await sleep(leftMs)
      yield next.piece
      onWayBytes -= next.piece.length
      change()
    }
  } finally {
    end.isLeft = true
    change()
  }
  await filled
  if (end.error !== null) throw end.error
}

class Relay {
  readonly #gates = new Map<string, Gate>()
  readonly #sockets = new Map<string, Set<Socket>>()

  gate(from: string, to: string): Gate {
    const key = `${from}>${to}`
    const gate = this.#gates.get(key) ?? new Gate()
    this.#gates.set(key, gate)
    return gate
  }

  async listen({ from, to, listen, target }: Route): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (near) => {
      const far = connect({ ...target, allowHalfOpen: true })
      this.#track(from, to, [near, far])
      void this.#carry(near, far, this.gate(from, to))
      void this.#carry(far, near, this.gate(to, from))
    })
    server.listen(listen.port, listen.host)
    await once(server, 'listening')
  }

  reset(from: string, to: string): void {
    for (const key of [`${from}>${to}`, `${to}>${from}`]) {
      for (const socket of this.#sockets.get(key) ?? []) socket.resetAndDestroy()
    }
  }

  #track(from: string, to: string, sockets: readonly Socket[]): void {
    const key = `${from}>${to}`
    const tracked = this.#sockets.get(key) ?? new Set()
    this.#sockets.set(key, tracked)
    for (const socket of sockets) {
      tracked.add(socket.setNoDelay(true))
      socket.once('close', () => tracked.delete(socket))
    }
  }

  /** What `from` sends, and how it ends, to `to`. */
  async #carry(from: Socket, to: Socket, gate: Gate): Promise<void> {
    // `for await` learns of it too.
    from.on('error', () => {})
    try {
      for await (const piece of along(from.iterator({ destroyOnReturn: false }), gate)) {
        const isRoom = to.write(await gate.pass(piece))
        if (!isRoom) await Promise.race([once(to, 'drain'), once(to, 'close')])
        if (to.destroyed) throw new Error('nobody takes it any more')
      }
      await gate.opened()
      to.end()
    } catch {
      await gate.opened()
      to.resetAndDestroy()
    }
  }
}

if (import.meta.main) {
  const relay = new Relay()
  for (const route of JSON.parse(process.argv[2]!) as Route[]) await relay.listen(route)
  process.on('message', (command: RelayCommand) => {
    if (command.kind === 'set') relay.gate(command.from, command.to).set(command.state)
    else relay.reset(command.from, command.to)
    process.send!({ id: command.id })
  })
  // Ends with the test that started it, whatever becomes of that.
  process.on('disconnect', () => process.exit(0))
  process.send!({ id: 0 })
}
