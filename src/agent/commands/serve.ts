import type { Channel, ChannelHandler } from '../../wire/channel.ts'
import {
  type CommandMessage,
  type CommandReply,
  commandCodec,
  commandReplyCodec,
  MAX_COMMAND_BYTES,
} from '../../wire/command-messages.ts'
import { apiError } from '../api/request.ts'
import type { CommandParts } from '../parts.ts'
import { execute } from './execute.ts'

/** From the opening of a channel to its command. */
const COMMAND_TIMEOUT_MS = 10_000
/** What the asking node may take to read a frame. */
const SEND_TIMEOUT_MS = 30_000
/** Commands of one peer at a time: it may watch all 64 VMs of a herd, and cancel them. */
export const MAX_COMMANDS_PER_PEER = 128
const MAX_MESSAGE_CHARS = 4096
const MAX_DETAILS_CHARS = 16 * 1024

/**
 * Does what another node was told to do with a VM of this one, or with this
 * node. Never hands a command on: who asks has looked up who has the VM.
 */
export function serveCommands(parts: CommandParts): ChannelHandler {
  return async (channel, signal) => {
    const bytes = await channel.receive({
      maxBytes: MAX_COMMAND_BYTES,
      signal: AbortSignal.any([signal, AbortSignal.timeout(COMMAND_TIMEOUT_MS)]),
    })
    if (bytes === null) return
    const command = commandCodec.decode(bytes)
    const facts = { peer: channel.peer, command: command.kind, ...subject(command) }
    try {
      admit(parts, facts)
    } catch (error) {
      await send(channel, { kind: 'error', ...errorFrame(error) }, signal)
      return channel.close()
    }
    const left = new AbortController()
    // Whoever closes or resets the channel doesn't wait any more.
    const listening = channel
      .receive({ maxBytes: 0, signal: AbortSignal.any([signal, left.signal]) })
      .catch(() => {})
      .then(() => left.abort())
    const either = AbortSignal.any([signal, left.signal])
    try {
      await send(channel, await answer(parts, command, channel, either), signal)
      await channel.close()
    } finally {
      left.abort()
      await listening
    }
  }
}

/**
 * Whether a peer may command at all; what it commands is an event either way.
 *
 * @throws PolicyError NOT_PERMITTED
 */
export function admit(
  { policy, events }: CommandParts,
  facts: { peer: string; command: string; [subject: string]: unknown },
): void {
  const isPermitted = policy.permits('command', facts.peer)
  events.publish({ kind: isPermitted ? 'command-from-peer' : 'command-refused', ...facts })
  policy.requirePermitted('command', facts.peer)
}

async function answer(
  parts: CommandParts,
  command: CommandMessage,
  channel: Channel,
  signal: AbortSignal,
): Promise<CommandReply> {
  // Progress is dropped while a frame is on its way: only the newest matters, and nothing piles up.
  let sending: Promise<void> | null = null
  const onProgress = (progress: object): void => {
    sending ??= send(channel, { kind: 'progress', json: JSON.stringify(progress) }, signal)
      .catch(() => {})
      .finally(() => {
        sending = null
      })
  }
  try {
    const result = await execute(parts, command, { onProgress, signal })
    await sending
    return { kind: 'result', json: JSON.stringify(result) }
  } catch (error) {
    await sending
    return { kind: 'error', ...errorFrame(error) }
  }
}

/** An error as it travels, cut to what a frame has room for. */
export function errorFrame(error: unknown): Omit<Extract<CommandReply, { kind: 'error' }>, 'kind'> {
  const { code, outcome, message, details } = apiError(error).error
  const detailsJson = JSON.stringify(details)
  return {
    code,
    outcome,
    message: message.slice(0, MAX_MESSAGE_CHARS),
    detailsJson: detailsJson.length <= MAX_DETAILS_CHARS ? detailsJson : '{}',
  }
}

async function send(channel: Channel, reply: CommandReply, signal: AbortSignal): Promise<void> {
  const bounded = AbortSignal.any([signal, AbortSignal.timeout(SEND_TIMEOUT_MS)])
  await channel.send(commandReplyCodec.encode(reply), { signal: bounded })
}

function subject(command: CommandMessage): object {
  if ('vm' in command) return { vm: command.vm }
  if ('vms' in command) return { vms: command.vms }
  return 'migrationId' in command ? { migrationId: command.migrationId } : {}
}
