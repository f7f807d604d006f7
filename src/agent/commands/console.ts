import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, rm } from 'node:fs/promises'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { VmError } from '../../vm/index.ts'
import type { Channel, ChannelHandler } from '../../wire/channel.ts'
import {
  consoleReplyCodec,
  consoleRequestCodec,
  MAX_COMMAND_BYTES,
  MAX_CONSOLE_BYTES,
} from '../../wire/command-messages.ts'
import { restrictSocket } from '../local-socket.ts'
import { type CommandParts, hypervisorOf } from '../parts.ts'
import { OwnerError, ownerError, reach, unreachable } from './ask.ts'
import { admit, errorFrame } from './serve.ts'

/** A guest's serial console for somebody on another node. */
export const CONSOLE_PROTOCOL = '/drover/console/1'

/** From the opening of a channel to its request, and to the answer. */
const OPEN_TIMEOUT_MS = 15_000
/** So long a tunnel waits for the command line to use it. */
const CONNECT_TIMEOUT_MS = 15_000

/** @throws VmError VM_NOT_FOUND, VM_STOPPED */
export async function ownConsole(parts: CommandParts, vm: string): Promise<string> {
  const { consoleSocket, record } = await hypervisorOf(parts).vms.show(vm)
  if (consoleSocket !== null) return consoleSocket
  const { name } = record.spec
  throw new VmError('VM_STOPPED', `VM '${name}' is stopped: it has no console`, { details: { name } })
}

/** Lets another node at the console of a VM of this one. */
export function serveConsole(parts: CommandParts): ChannelHandler {
  return async (channel, signal) => {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)])
    const bytes = await channel.receive({ maxBytes: MAX_COMMAND_BYTES, signal: bounded })
    if (bytes === null) return
    const { vm } = consoleRequestCodec.decode(bytes)
    // QEMU serves one connection at a time: one that is left behind would keep everybody else out.
    using left = new DisposableStack()
    let socket: Socket
    try {
      admit(parts, { peer: channel.peer, command: 'console', vm })
      socket = left.adopt(createConnection(await ownConsole(parts, vm)), (used) => used.destroy())
      // 'close' follows, and ends what goes over it.
      socket.on('error', () => {})
      await once(socket, 'connect', { signal: bounded })
    } catch (error) {
      await channel.send(consoleReplyCodec.encode({ kind: 'error', ...errorFrame(error) }), {
        signal: bounded,
      })
      return channel.close()
    }
    await channel.send(consoleReplyCodec.encode({ kind: 'opened' }), { signal: bounded })
    await carry(socket, channel, signal)
  }
}

/** Consoles of VMs elsewhere, each as a unix socket here that serves one connection. */
export class ConsoleTunnels {
  readonly #parts: CommandParts
  readonly #stopping = new AbortController()
  readonly #open = new Set<Promise<void>>()

  constructor(parts: CommandParts) {
    this.#parts = parts
  }

  /**
   * @returns path of the socket; it is gone when its connection ends, or none comes in CONNECT_TIMEOUT_MS
   * @throws OwnerError; AgentError OWNER_UNREACHABLE
   */
  async open(owner: string, vm: string, signal: AbortSignal): Promise<string> {
    const { mesh, config } = this.#parts
    const open = (peer: string, protocol: string, bounded: AbortSignal) => mesh.open(peer, protocol, bounded)
    const channel = await reach(open, owner, signal, CONSOLE_PROTOCOL)
    // Beside the VMs' and with a UUID like theirs: what a killed agent leaves there, the next one removes.
    const dir = join(config.runDir, randomUUID())
    try {
      await request(channel, vm, signal)
      await mkdir(dir, { recursive: true, mode: 0o700 })
      const path = join(dir, 'console.sock')
      const server = createServer({ pauseOnConnect: true })
      server.listen(path)
      await once(server, 'listening', { signal })
      // In a directory that lets nobody else in.
      await restrictSocket(path)
      const served = this.#serve(server, channel).finally(() => rm(dir, { recursive: true, force: true }))
      this.#open.add(served)
      served.catch(() => {}).finally(() => this.#open.delete(served))
      return path
    } catch (error) {
      channel.abort(error as Error)
      await rm(dir, { recursive: true, force: true })
      throw error
    }
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the agent stops'))
    await Promise.allSettled(this.#open)
  }

  async #serve(server: Server, channel: Channel): Promise<void> {
    const { signal } = this.#stopping
    try {
      const waiting = AbortSignal.any([signal, AbortSignal.timeout(CONNECT_TIMEOUT_MS)])
      const [socket] = (await once(server, 'connection', { signal: waiting })) as [Socket]
      server.close()
      await carry(socket, channel, signal)
    } catch (error) {
      channel.abort(error as Error)
    } finally {
      server.close()
    }
  }
}

async function request(channel: Channel, vm: string, signal: AbortSignal): Promise<void> {
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)])
  try {
    await channel.send(consoleRequestCodec.encode({ vm }), { signal: bounded })
    const bytes = await channel.receive({ maxBytes: MAX_CONSOLE_BYTES, signal: bounded })
    if (bytes === null) throw new Error('the owner ended without an answer')
    const reply = consoleReplyCodec.decode(bytes)
    if (reply.kind === 'error') throw ownerError(channel.peer, reply)
  } catch (error) {
    signal.throwIfAborted()
    throw error instanceof OwnerError ? error : unreachable(channel.peer, error)
  }
}

/** Carries bytes both ways until either end has closed. */
async function carry(socket: Socket, channel: Channel, signal: AbortSignal): Promise<void> {
  const ended = new AbortController()
  const either = AbortSignal.any([signal, ended.signal])
  const toChannel = async (): Promise<void> => {
    for await (const data of socket as AsyncIterable<Buffer>) await channel.send(data, { signal: either })
  }
  const toSocket = async (): Promise<void> => {
    for (;;) {
      const bytes = await channel.receive({ maxBytes: MAX_CONSOLE_BYTES, signal: either })
      if (bytes === null) return
      if (!socket.write(Buffer.from(bytes))) await once(socket, 'drain', { signal: either })
    }
  }
  const directions = [toChannel(), toSocket()]
  try {
    await Promise.race(directions)
    await channel.close()
  } finally {
    ended.abort(new Error('the console was left'))
    socket.destroy()
    await Promise.allSettled(directions)
  }
}
