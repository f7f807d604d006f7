import { z } from 'zod'
import { DroverError, errorBody } from '../../domain/errors.ts'
import { printable } from '../../domain/text.ts'
import type { Channel, OpenChannel } from '../../wire/channel.ts'
import {
  type CommandKind,
  type CommandReply,
  commandCodec,
  commandReplyCodec,
  MAX_COMMAND_REPLY_BYTES,
} from '../../wire/command-messages.ts'
import { AgentError } from '../errors.ts'
import type { Command, CommandOptions, CommandProgress, CommandResults } from './command.ts'
import {
  drainProgress,
  drainReply,
  migrateReply,
  migrationReply,
  migrationReport,
  moveProgress,
  nodeStateReply,
  vmReply,
  vmShowReply,
} from './replies.ts'

export const COMMAND_PROTOCOL = '/drover/command/1'

/** For reaching a node: a dial and a round trip. */
const OPEN_TIMEOUT_MS = 15_000
/** What a command may take: a guest has 30 s to switch itself off. */
const ANSWER_TIMEOUT_MS = 120_000
/** A move that is watched, or a drain, tells of a step each 200 ms; between two phases a large template may travel. */
const WATCH_TIMEOUT_MS = 24 * 3_600_000

/** What the owner's answer must look like: it ends up on a terminal and in scripts. */
const RESULTS: { [K in CommandKind]: z.ZodType<CommandResults[K]> } = {
  show: vmShowReply,
  pause: vmReply,
  resume: vmReply,
  reset: vmReply,
  stop: vmReply,
  remove: vmReply,
  set: vmReply,
  migrate: migrateReply,
  watch: migrationReport,
  report: migrationReply,
  cancel: migrationReply,
  resolve: migrationReply,
  drain: drainReply,
  stopDrain: nodeStateReply,
  ready: nodeStateReply,
}

const PROGRESS: { [K in keyof CommandProgress]: z.ZodType<CommandProgress[K]> } = {
  watch: moveProgress,
  drain: drainProgress,
}

/** The node that was asked said no, in its own words. */
export class OwnerError extends DroverError {}

/**
 * Has another node do a command.
 *
 * @throws OwnerError with the owner's code; AgentError OWNER_UNREACHABLE when it can't be asked or doesn't answer,
 *   ANSWER_MALFORMED; the signal's reason
 */
export async function ask<K extends CommandKind>(
  open: OpenChannel,
  owner: string,
  command: Command<K>,
  { onProgress, signal }: CommandOptions<K>,
): Promise<CommandResults[K]> {
  const channel = await reach(open, owner, signal)
  try {
    const timeoutMs = command.kind in PROGRESS ? WATCH_TIMEOUT_MS : ANSWER_TIMEOUT_MS
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)])
    await channel.send(commandCodec.encode(command), { signal: bounded })
    const result = await readReplies(channel, command.kind as K, onProgress, bounded)
    await channel.close()
    return result
  } catch (error) {
    channel.abort(error as Error)
    signal.throwIfAborted()
    if (error instanceof OwnerError || error instanceof AgentError) throw error
    throw unreachable(owner, error)
  }
}

/** What a frame with an error stands for. */
export function ownerError(
  peer: string,
  { code, outcome, message, detailsJson }: Extract<CommandReply, { kind: 'error' }>,
): OwnerError {
  const details = parse(peer, z.record(z.string(), z.unknown()), detailsJson)
  return new OwnerError(code, outcome, printable(message), { details })
}

/** @throws AgentError OWNER_UNREACHABLE; MeshError PEER_REMOVED; the signal's reason */
export async function reach(
  open: OpenChannel,
  owner: string,
  signal: AbortSignal,
  protocol = COMMAND_PROTOCOL,
): Promise<Channel> {
  try {
    return await open(owner, protocol, AbortSignal.any([signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)]))
  } catch (cause) {
    signal.throwIfAborted()
    if (errorBody(cause).code === 'PEER_REMOVED') throw cause
    throw unreachable(owner, cause)
  }
}

async function readReplies<K extends CommandKind>(
  channel: Channel,
  kind: K,
  onProgress: CommandOptions<K>['onProgress'],
  signal: AbortSignal,
): Promise<CommandResults[K]> {
  for (;;) {
    const bytes = await channel.receive({ maxBytes: MAX_COMMAND_REPLY_BYTES, signal })
    if (bytes === null) throw malformed(channel.peer, 'it ended without one')
    const reply = commandReplyCodec.decode(bytes)
    if (reply.kind === 'error') throw ownerError(channel.peer, reply)
    if (reply.kind === 'result')
      return parse(channel.peer, RESULTS[kind] as z.ZodType<CommandResults[K]>, reply.json)
    const progress = PROGRESS[kind as keyof CommandProgress] as z.ZodType | undefined
    if (progress === undefined) throw malformed(channel.peer, 'progress of a command that has none')
    const tell = onProgress as (progress: unknown) => void
    tell(parse(channel.peer, progress, reply.json))
  }
}

function parse<T>(peer: string, schema: z.ZodType<T>, json: string): T {
  let document: unknown
  try {
    document = JSON.parse(json, (_key, value: unknown) =>
      typeof value === 'string' ? printable(value) : value,
    )
  } catch {
    throw malformed(peer, 'it is no JSON')
  }
  const checked = schema.safeParse(document)
  if (checked.success) return checked.data
  const [issue] = checked.error.issues
  throw malformed(peer, `${issue?.path.join('.')}: ${issue?.message}`)
}

export function unreachable(owner: string, cause: unknown): AgentError {
  return new AgentError(
    'OWNER_UNREACHABLE',
    `node ${owner} was asked, and doesn't answer: is its agent up? \`drover peer ping ${owner}\``,
    { cause, details: { owner } },
  )
}

function malformed(peer: string, what: string): AgentError {
  return new AgentError('ANSWER_MALFORMED', `node ${peer} gave an answer that is none: ${what}`, {
    details: { peer, what },
  })
}
