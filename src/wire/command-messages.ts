import { z } from 'zod'
import { MAX_CLIENTS } from '../domain/client.ts'
import { MAX_HERD_VMS, MAX_PARALLEL_MOVES } from '../domain/migration.ts'
import { NAME_PATTERN } from '../domain/text.ts'
import { PEER_ID_PATTERN } from '../domain/vm.ts'
import { messageCodec, type OneOf, oneOfCodec } from './message.ts'
import { vmClient } from './migration-messages.ts'

/** The messages of `/drover/command/1` (`command.proto`), with what each may hold. */

/** 64 names of 63 characters. */
export const MAX_COMMAND_BYTES = 8 * 1024
/** A report has a line for each of 30 rounds, a VM four NICs: some KB. */
export const MAX_COMMAND_REPLY_BYTES = 256 * 1024

/** A name, or an id, which is one too. */
const vm = z.string().regex(NAME_PATTERN)
const migrationId = z.uuid().lowercase()
const limit = z.number().min(0).max(Number.MAX_SAFE_INTEGER)

const nothing: z.ZodType<object> = z.object({})

const commandBodies = {
  show: z.object({ vm }),
  pause: z.object({ vm }),
  resume: z.object({ vm }),
  reset: z.object({ vm }),
  stop: z.object({ vm, force: z.boolean() }),
  remove: z.object({ vm }),
  set: z.object({
    vm,
    clients: z.object({ clients: z.array(vmClient).max(MAX_CLIENTS) }).nullable(),
    auto: z.object({ on: z.boolean() }).nullable(),
  }),
  migrate: z.object({
    vms: z.array(vm).min(1).max(MAX_HERD_VMS),
    to: z.string().regex(PEER_ID_PATTERN),
    parallel: z.number().int().min(1).max(MAX_PARALLEL_MOVES),
    maxBandwidthBytesPerSecond: limit,
    maxBlackoutMs: limit,
  }),
  watch: z.object({ migrationId }),
  report: z.object({ migrationId }),
  cancel: z.object({ migrationId }),
  resolve: z.object({ migrationId, owner: z.enum(['source', 'destination']) }),
  drain: nothing,
  stopDrain: nothing,
  ready: nothing,
}

export type CommandMessage = OneOf<typeof commandBodies>
export type CommandKind = CommandMessage['kind']
export const commandCodec = oneOfCodec('drover.command.Command', commandBodies)

const json = z.string().max(MAX_COMMAND_REPLY_BYTES)

const error = z.object({
  code: z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/),
  outcome: z.enum(['failed', 'usage', 'refused', 'in-doubt', 'cancelled']),
  message: z.string().max(4096),
  detailsJson: z.string().max(16 * 1024),
})

const replyBodies = { progress: z.object({ json }), result: z.object({ json }), error }

export type CommandReply = OneOf<typeof replyBodies>
export const commandReplyCodec = oneOfCodec('drover.command.CommandReply', replyBodies)

/** What a terminal sends at a time, and a serial line says. */
export const MAX_CONSOLE_BYTES = 64 * 1024

export const consoleRequestCodec = messageCodec('drover.command.ConsoleRequest', z.object({ vm }))
export const consoleReplyCodec = oneOfCodec('drover.command.ConsoleReply', { opened: nothing, error })
