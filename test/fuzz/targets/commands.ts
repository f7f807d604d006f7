import { ask } from '../../../src/agent/commands/ask.ts'
import { serveConsole } from '../../../src/agent/commands/console.ts'
import { serveCommands } from '../../../src/agent/commands/serve.ts'
import { EventHub } from '../../../src/agent/event-hub.ts'
import type { CommandParts } from '../../../src/agent/parts.ts'
import { DroverError } from '../../../src/domain/errors.ts'
import { Policy } from '../../../src/domain/policy.ts'
import { commandCodec, consoleRequestCodec } from '../../../src/wire/command-messages.ts'
import { channelPair } from '../../support/channel-pair.ts'
import { attackClient, attackHandler } from '../attack-channel.ts'
import { FuzzNode } from '../fuzz-node.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'
import { messageTarget } from './message-target.ts'

const MAX_REPLY_BYTES = 256 * 1024
const ANSWER_MS = 5_000
const COMMANDS = ['show', 'report', 'migrate', 'watch', 'drain', 'ready'] as const

async function startNode(): Promise<{ node: FuzzNode; parts: CommandParts }> {
  const node = await FuzzNode.start()
  const { vms, migrations, binary } = node
  const hypervisor = { binary, vms, migrations, drains: await node.drains() }
  const policy = new Policy({}, { node: 'here' })
  const parts = { policy, events: new EventHub(), hypervisor, qemuError: null } as unknown as CommandParts
  return { node, parts }
}

/** Commands of another node, on VMs that aren't here. */
export async function startCommandServer(): Promise<FuzzTarget> {
  const { node, parts } = await startNode()
  const handler = serveCommands(parts)
  return messageTarget({
    name: 'command-server',
    says: ['drover.command.Command'],
    hints: () => ({}),
    attack: (attack) => attackHandler(handler, attack, 'command server'),
    async checkHonest() {
      const open = async () => {
        const [ours, theirs] = channelPair()
        handler(theirs, AbortSignal.timeout(ANSWER_MS)).catch((error: Error) => theirs.abort(error))
        return ours
      }
      const options = { onProgress: () => {}, signal: AbortSignal.timeout(ANSWER_MS) }
      const refusal = await ask(open, 'here', { kind: 'show', vm: 'web' }, options).catch((error) => error)
      if (!(refusal instanceof DroverError && refusal.code === 'VM_NOT_FOUND')) {
        throw new FuzzFailure('an honest command was not answered', { cause: refusal })
      }
      await node.checkNothingLeft()
    },
    dispose: () => node[Symbol.asyncDispose](),
  })
}

/** Another node's answers to a command. */
export async function startCommandClient(): Promise<FuzzTarget> {
  return messageTarget({
    name: 'command-client',
    says: ['drover.command.CommandReply', 'drover.command.CommandReply'],
    hints: () => ({}),
    attack: (attack, dice) => {
      const kind = dice.pick(COMMANDS)
      const command = {
        show: { kind: 'show', vm: 'web' },
        report: { kind: 'report', migrationId: dice.uuid() },
        watch: { kind: 'watch', migrationId: dice.uuid() },
        drain: { kind: 'drain' },
        ready: { kind: 'ready' },
        migrate: {
          kind: 'migrate',
          vms: ['web'],
          to: 'x',
          parallel: 1,
          maxBlackoutMs: 0,
          maxBandwidthBytesPerSecond: 0,
        },
      }[kind] as Parameters<typeof ask>[2]
      return attackClient(
        (channel, signal) => ask(async () => channel, 'owner', command, { onProgress: () => {}, signal }),
        attack,
        'command client',
      )
    },
    async checkHonest() {
      commandCodec.decode(commandCodec.encode({ kind: 'show', vm: 'web' }))
    },
  })
}

/** Somebody who wants a console. */
export async function startConsoleServer(): Promise<FuzzTarget> {
  const { node, parts } = await startNode()
  const handler = serveConsole(parts)
  return messageTarget({
    name: 'console-server',
    says: ['drover.command.ConsoleRequest', 'drover.command.Command'],
    hints: () => ({}),
    attack: (attack) => attackHandler(handler, attack, 'console server'),
    async checkHonest() {
      const [ours, theirs] = channelPair()
      const serving = handler(theirs, AbortSignal.timeout(ANSWER_MS))
      await ours.send(consoleRequestCodec.encode({ vm: 'web' }))
      const answer = await ours.receive({ maxBytes: MAX_REPLY_BYTES, signal: AbortSignal.timeout(ANSWER_MS) })
      await serving
      if (!Buffer.from(answer ?? []).includes('VM_NOT_FOUND'))
        throw new FuzzFailure('no refusal of a console')
      await node.checkNothingLeft()
    },
    dispose: () => node[Symbol.asyncDispose](),
  })
}
