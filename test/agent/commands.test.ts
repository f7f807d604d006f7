/** Commands between nodes, and peers that say something else: the real handlers over channels in memory. */
import { expect, test } from 'vitest'
import { ask } from '../../src/agent/commands/ask.ts'
import type { Command } from '../../src/agent/commands/command.ts'
import { serveCommands } from '../../src/agent/commands/serve.ts'
import { EventHub } from '../../src/agent/event-hub.ts'
import type { CommandParts } from '../../src/agent/parts.ts'
import { DroverError } from '../../src/domain/errors.ts'
import { Policy } from '../../src/domain/policy.ts'
import type { Channel } from '../../src/wire/channel.ts'
import { type CommandReply, commandReplyCodec, MAX_COMMAND_BYTES } from '../../src/wire/command-messages.ts'
import { messageType } from '../../src/wire/schema.ts'
import { channelPair } from '../support/channel-pair.ts'
import { codeOf, never } from '../template/fixture.ts'

const NO_QEMU = new DroverError('QEMU_NOT_FOUND', 'refused', 'no QEMU here')

/** A node that has no VMs: what comes through to them is refused with its own code. */
const policy = new Policy({}, { node: 'owner' })
const parts = {
  policy,
  events: new EventHub(),
  hypervisor: null,
  qemuError: NO_QEMU,
} as unknown as CommandParts

const command = (plain: object): Uint8Array => {
  const type = messageType('drover.command.Command')
  return type.encode(type.fromObject(plain)).finish()
}

async function served(bytes: Uint8Array): Promise<{ served: unknown; reply: CommandReply | null }> {
  const [ours, theirs] = channelPair()
  const serving = codeOf(
    serveCommands(parts)(theirs, never()).catch((error: unknown) => {
      theirs.abort(error as Error)
      throw error
    }),
  )
  await ours.send(bytes)
  const answer = await ours.receive({ maxBytes: 2 ** 20 }).catch(() => null)
  const reply = answer === null ? null : commandReplyCodec.decode(answer)
  await ours.close()
  return { served: await serving, reply }
}

test('what a node refuses travels with its code', async () => {
  const { served: outcome, reply } = await served(command({ pause: { vm: 'web' } }))
  expect(outcome).toBe('resolved')
  expect(reply).toMatchObject({ kind: 'error', code: 'QEMU_NOT_FOUND', outcome: 'refused' })
})

test.each<[what: string, bytes: Uint8Array, code: string]>([
  ['noise', Buffer.alloc(64, 0xff), 'MESSAGE_MALFORMED'],
  ['nothing', new Uint8Array(), 'MESSAGE_MALFORMED'],
  ['a path', command({ show: { vm: '../../etc/passwd' } }), 'MESSAGE_MALFORMED'],
  ['an option', command({ stop: { vm: '--force' } }), 'MESSAGE_MALFORMED'],
  ['a line break', command({ reset: { vm: 'a\nb' } }), 'MESSAGE_MALFORMED'],
  ['a name of 64 characters', command({ show: { vm: 'a'.repeat(64) } }), 'MESSAGE_MALFORMED'],
  ['no VMs to move', command({ migrate: { vms: [], to: 'x', parallel: 1 } }), 'MESSAGE_MALFORMED'],
  [
    'a shell as destination',
    command({ migrate: { vms: ['a'], to: '$(reboot)', parallel: 1 } }),
    'MESSAGE_MALFORMED',
  ],
  [
    '65 VMs',
    command({ migrate: { vms: Array(65).fill('a'), to: '1'.repeat(40), parallel: 1 } }),
    'MESSAGE_MALFORMED',
  ],
  [
    'a client that is none',
    command({ set: { vm: 'a', clients: { clients: [{ host: '$(reboot)', port: 1, weight: 1 }] } } }),
    'MESSAGE_MALFORMED',
  ],
  [
    '17 clients',
    command({ set: { vm: 'a', clients: { clients: Array(17).fill({ host: 'a', port: 1, weight: 1 }) } } }),
    'MESSAGE_MALFORMED',
  ],
  [
    'a negative limit',
    command({ migrate: { vms: ['a'], to: '1'.repeat(40), parallel: 1, maxBlackoutMs: -1 } }),
    'MESSAGE_MALFORMED',
  ],
  [
    'no limit that is a number',
    command({ migrate: { vms: ['a'], to: '1'.repeat(40), parallel: 1, maxBlackoutMs: Number.NaN } }),
    'MESSAGE_MALFORMED',
  ],
  ['a move that is none', command({ cancel: { migrationId: 'x' } }), 'MESSAGE_MALFORMED'],
  [
    'another owner',
    command({ resolve: { migrationId: crypto.randomUUID(), owner: 'me' } }),
    'MESSAGE_MALFORMED',
  ],
  ['too much', Buffer.alloc(MAX_COMMAND_BYTES + 1), 'MESSAGE_TOO_LARGE'],
])('a peer that commands %s gets nothing', async (_, bytes, code) => {
  expect(await served(bytes)).toEqual({ served: code, reply: null })
})

const SHOW: Command<'show'> = { kind: 'show', vm: 'web' }
const reply = (plain: object): Uint8Array => {
  const type = messageType('drover.command.CommandReply')
  return type.encode(type.fromObject(plain)).finish()
}

/** The outcome of asking a peer that answers so, for as long as anybody listens. */
async function asked(answers: Uint8Array[], { again = false } = {}): Promise<unknown> {
  const open = async (): Promise<Channel> => {
    const [ours, theirs] = channelPair({ peers: ['here', 'owner'] })
    const answer = async () => {
      await theirs.receive({ maxBytes: MAX_COMMAND_BYTES })
      do for (const bytes of answers) await theirs.send(bytes)
      while (again)
      await theirs.close()
    }
    answer().catch(() => {})
    return ours
  }
  return codeOf(ask(open, 'owner', SHOW, { onProgress: () => {}, signal: never() }))
}

test.each<[what: string, answers: Uint8Array[], code: string]>([
  ['nothing', [], 'ANSWER_MALFORMED'],
  ['noise', [Buffer.alloc(64, 0xff)], 'OWNER_UNREACHABLE'],
  ['no JSON', [reply({ result: { json: '{' } })], 'ANSWER_MALFORMED'],
  ['an empty document', [reply({ result: { json: '{}' } })], 'ANSWER_MALFORMED'],
  ['a document of another kind', [reply({ result: { json: '[1,2,3]' } })], 'ANSWER_MALFORMED'],
  ['progress of a command that has none', [reply({ progress: { json: '{}' } })], 'ANSWER_MALFORMED'],
  ['too much', [Buffer.alloc(300 * 1024)], 'OWNER_UNREACHABLE'],
  ['an error of no code', [reply({ error: { code: 'no code', outcome: 'failed' } })], 'OWNER_UNREACHABLE'],
  [
    'an error with details that are none',
    [reply({ error: { code: 'X', outcome: 'failed', detailsJson: '7' } })],
    'ANSWER_MALFORMED',
  ],
  [
    'a refusal',
    [reply({ error: { code: 'VM_BUSY', outcome: 'refused', message: 'busy', detailsJson: '{}' } })],
    'VM_BUSY',
  ],
])('an owner that answers with %s: a coded error', async (_, answers, code) => {
  expect(await asked(answers)).toBe(code)
})

test('an owner that never ends is not listened to', async () => {
  expect(await asked([reply({ progress: { json: '{}' } })], { again: true })).toBe('ANSWER_MALFORMED')
})

test('an error moves no cursor', async () => {
  const open = async (): Promise<Channel> => {
    const [ours, theirs] = channelPair()
    await theirs.send(
      reply({ error: { code: 'X', outcome: 'failed', message: '\x1b[2Jgone', detailsJson: '{}' } }),
    )
    return ours
  }
  const asking = ask(open, 'owner', SHOW, { onProgress: () => {}, signal: never() })
  await expect(asking).rejects.toThrow(' [2Jgone')
})
