import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'

/** Ctrl-]: what telnet and virsh use. */
const ESCAPE_BYTE = 0x1d

/** A terminal, or a pipe that looks like one from here. */
export interface ConsoleEnds {
  input: Readable & { isTTY?: boolean; setRawMode?: (raw: boolean) => unknown }
  output: Writable
}

/** When the guest said something last. */
interface Heard {
  atMs: number
}

/** Why a console session ended. */
export type ConsoleEnd = 'escape' | 'quiet' | 'closed'

/**
 * Connects a terminal with a guest's serial console until the guest's end
 * closes or Ctrl-] is pressed. Off a terminal: until the input has ended and
 * the console was quiet for `quietMs`, so that a pipe gets its answer.
 *
 * @throws the signal's reason; what the socket says when it can't be connected
 */
export async function bridgeConsole(
  path: string,
  { input, output }: ConsoleEnds,
  { quietMs, signal }: { quietMs: number; signal: AbortSignal },
): Promise<ConsoleEnd> {
  const socket = createConnection(path)
  await once(socket, 'connect', { signal })
  const interactive = input.isTTY === true
  if (interactive) input.setRawMode?.(true)
  const ended = new AbortController()
  const heard: Heard = { atMs: performance.now() }
  try {
    return await Promise.race([
      copyInput(input, socket, { heard, interactive, quietMs, signal: ended.signal }),
      copyOutput(socket, output, heard),
      aborted(signal, ended.signal),
    ])
  } finally {
    ended.abort()
    if (interactive) input.setRawMode?.(false)
    // An open stdin keeps the process alive.
    input.destroy()
    socket.destroy()
  }
}

async function copyInput(
  input: Readable,
  socket: Socket,
  {
    heard,
    interactive,
    quietMs,
    signal,
  }: { heard: Heard; interactive: boolean; quietMs: number; signal: AbortSignal },
): Promise<ConsoleEnd> {
  for await (const data of input as AsyncIterable<Buffer>) {
    const escapeAt = interactive ? data.indexOf(ESCAPE_BYTE) : -1
    if (!socket.write(escapeAt < 0 ? data : data.subarray(0, escapeAt)))
      await once(socket, 'drain', { signal })
    if (escapeAt >= 0) return 'escape'
  }
  heard.atMs = performance.now()
  return await quiet(heard, quietMs, signal)
}

/** Resolves when nothing came for so long. */
async function quiet(heard: Heard, quietMs: number, signal: AbortSignal): Promise<ConsoleEnd> {
  for (;;) {
    const leftMs = heard.atMs + quietMs - performance.now()
    if (leftMs <= 0) return 'quiet'
    await sleep(leftMs, undefined, { signal })
  }
}

async function copyOutput(socket: Socket, output: Writable, heard: Heard): Promise<ConsoleEnd> {
  for await (const data of socket) {
    heard.atMs = performance.now()
    if (!output.write(data)) await once(output, 'drain')
  }
  return 'closed'
}

async function aborted(signal: AbortSignal, ended: AbortSignal): Promise<never> {
  if (!signal.aborted) await once(signal, 'abort', { signal: ended })
  throw signal.reason
}
