import { ControlChannel } from '../../../src/migration/control.ts'
import { type Heard, hear, sign } from '../../../src/migration/grant.ts'
import { askUntilAnswered } from '../../../src/migration/verdict.ts'
import type { Channel } from '../../../src/wire/channel.ts'
import { controlCodec, signedCodec } from '../../../src/wire/migration-messages.ts'
import { channelPair } from '../../support/channel-pair.ts'
import { SignaturesByName } from '../../support/signatures.ts'
import { attackClient } from '../attack-channel.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'
import { messageTarget } from './message-target.ts'

/** What a source waits for, in its turn: each may be a Refuse or an Abort instead. */
const WAITS = [
  ['accept'],
  ['templateProgress', 'prepared'],
  ['roundApplied'],
  ['ready'],
  ['running'],
  ['settled'],
  ['herdAccept'],
] as const
const WAIT_MS = 4_000

/** A destination's control messages, as the source hears them, and what it says of a Grant. */
export async function startMoveSource(): Promise<FuzzTarget> {
  const signatures = new SignaturesByName()
  const listen = async (control: ControlChannel, kinds: (typeof WAITS)[number], signal: AbortSignal) => {
    const message = await control.receive(kinds, { timeoutMs: WAIT_MS, signal })
    if (message.kind !== 'running') return
    await hear(signatures.of('here'), message, { peer: 'mallory', words: ['TAKEN'] })
  }
  return messageTarget({
    name: 'move-source',
    says: ['drover.migration.Control', 'drover.migration.Control'],
    hints: (dice) => ({ code: ['VM_BUSY'], round: [1, dice.below(100)] }),
    attack: (attack, dice) => {
      const waits = [dice.pick(WAITS), dice.pick(WAITS)]
      return attackClient(
        async (channel, signal) => {
          const control = new ControlChannel(channel)
          for (const kinds of waits) await listen(control, kinds, signal)
        },
        attack,
        'move source',
      )
    },
    async checkHonest() {
      const [ours, theirs] = channelPair()
      await theirs.send(controlCodec.encode({ kind: 'roundApplied', lost: new Uint8Array(0), round: 1 }))
      const options = { timeoutMs: WAIT_MS, signal: AbortSignal.timeout(WAIT_MS) }
      const { round } = await new ControlChannel(ours).receive(['roundApplied'], options)
      if (round !== 1) throw new FuzzFailure('not the round that was applied')
    },
  })
}

/** A destination that was asked about a Grant: no answer but its own, signed, may count. */
export async function startVerdictClient(): Promise<FuzzTarget> {
  const signatures = new SignaturesByName()
  const grant = {
    migrationId: '00000000-0000-4000-8000-000000000001',
    vmId: '00000000-0000-4000-8000-000000000002',
    epoch: 2,
    source: 'here',
    destination: 'mallory',
    place: '00000000-0000-4000-8000-000000000003',
    digest: '01'.repeat(32),
  }
  const components = { signatures: signatures.of('here') }
  const forged = await sign(signatures.of('trudy'), 'REFUSED', grant)
  return messageTarget({
    name: 'verdict-client',
    says: ['drover.migration.Signed'],
    hints: () => ({ statement: [forged.statement], signature: [forged.signature] }),
    attack: (attack) =>
      attackClient(
        async (channel, signal) => {
          const asked = askedOnce(channel)
          const bounded = AbortSignal.any([signal, asked.over])
          const act = ({ signer }: Heard) => {
            if (signer !== null) throw new FuzzFailure('a forged verdict counted')
          }
          await askUntilAnswered({ ...components, open: async () => asked.channel }, grant, act, bounded)
        },
        attack,
        'verdict client',
      ),
    async checkHonest() {
      const [ours, theirs] = channelPair()
      const heard: Heard[] = []
      const asked = askUntilAnswered(
        { ...components, open: async () => ours },
        grant,
        (said) => void heard.push(said),
        AbortSignal.timeout(WAIT_MS),
      )
      await theirs.receive({ maxBytes: 4096 })
      await theirs.send(signedCodec.encode(await sign(signatures.of('mallory'), 'REFUSED', grant)))
      await asked
      if (heard[0]?.signer !== 'mallory') throw new FuzzFailure('an honest verdict did not count')
    },
  })
}

/** A channel after whose failure nobody asks again. */
function askedOnce(channel: Channel): { channel: Channel; over: AbortSignal } {
  const over = new AbortController()
  const watched: Channel = {
    peer: channel.peer,
    bytesSent: 0,
    bytesReceived: 0,
    send: (message, options) => channel.send(message, options),
    receive: (options) => channel.receive(options),
    close: () => channel.close(),
    abort: (error) => {
      channel.abort(error)
      over.abort(error)
    },
  }
  return { channel: watched, over: over.signal }
}
