import { isIP } from 'node:net'
import { Policy } from '../../../src/domain/policy.ts'
import { isLoopback } from '../../../src/placement/probing/addresses.ts'
import { askProbes } from '../../../src/placement/probing/ask.ts'
import { Prober } from '../../../src/placement/probing/prober.ts'
import { ProbeServer } from '../../../src/placement/probing/serve.ts'
import type { ProbeTarget } from '../../../src/wire/probe-messages.ts'
import { channelPair } from '../../support/channel-pair.ts'
import { attackClient, attackHandler } from '../attack-channel.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'
import { messageTarget } from './message-target.ts'

const ANSWER_MS = 5_000
const TARGETS = [
  { address: '192.0.2.7', port: 443 },
  { address: '2001:db8::7', port: 443 },
]

/** Of what a peer asks for, only addresses of other machines are reached. */
async function probe({ address }: ProbeTarget): Promise<number> {
  if (isIP(address) === 0 || isLoopback(address)) throw new FuzzFailure(`${address} was probed`)
  return 1
}

/** Another node that wants round trips. */
export async function startProbeServer(): Promise<FuzzTarget> {
  // Each attack comes at another time: limits let some of them through.
  let nowMs = 0
  const now = () => nowMs
  const server = new ProbeServer(
    {
      prober: new Prober({ probe, now }),
      policy: new Policy({}, { node: 'here' }),
      probesLoopback: () => false,
    },
    { now },
  )
  return messageTarget({
    name: 'probe-server',
    says: ['drover.placement.ProbeRequest'],
    hints: () => ({}),
    attack: (attack) => {
      nowMs += 1_000
      return attackHandler(server.handler, attack, 'probe server')
    },
    async checkHonest() {
      nowMs += 60_000
      const open = async () => {
        const [ours, theirs] = channelPair({ peers: ['friend', 'here'] })
        server.handler(theirs, AbortSignal.timeout(ANSWER_MS)).catch((error: Error) => theirs.abort(error))
        return ours
      }
      const answer = await askProbes(open, 'here', TARGETS, AbortSignal.timeout(ANSWER_MS))
      if (answer.kind !== 'measured' || answer.rttsMs.join() !== '1,1') {
        throw new FuzzFailure(`an honest request was answered with ${JSON.stringify(answer)}`)
      }
    },
  })
}

/** Another node's round trips. */
export async function startProbeClient(): Promise<FuzzTarget> {
  return messageTarget({
    name: 'probe-client',
    says: ['drover.placement.ProbeReply', 'drover.placement.ProbeReply'],
    hints: () => ({}),
    attack: (attack) =>
      attackClient(
        async (channel, signal) => {
          const answer = await askProbes(async () => channel, 'peer', TARGETS, signal)
          if (answer.kind === 'measured' && answer.rttsMs.length !== TARGETS.length) {
            throw new FuzzFailure(`${answer.rttsMs.length} round trips for ${TARGETS.length} targets`)
          }
        },
        attack,
        'probe client',
      ),
    // Nothing is kept of an answer.
    async checkHonest() {},
  })
}
