/** Probes for other nodes: the real handler between real meshes, what it measures being the test's choice. */
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Policy } from '../../../src/domain/policy.ts'
import type { Mesh } from '../../../src/mesh/index.ts'
import { askProbes, type ProbeAnswer } from '../../../src/placement/probing/ask.ts'
import { Prober } from '../../../src/placement/probing/prober.ts'
import { PROBE_CHANNELS, PROBE_PROTOCOL } from '../../../src/placement/probing/protocol.ts'
import { ProbeServer } from '../../../src/placement/probing/serve.ts'
import { type ProbeTarget, probeReplyCodec } from '../../../src/wire/probe-messages.ts'
import { channelPair } from '../../support/channel-pair.ts'
import { startMesh } from '../../support/mesh-pair.ts'
import { codeOf } from '../../template/fixture.ts'

const soon = () => AbortSignal.timeout(10_000)
let stack: AsyncDisposableStack
let owner: Mesh
let friend: Mesh
let other: Mesh
/** Handlers are registered once. */
let current: Pick<ProbeServer, 'handler'>

beforeAll(async () => {
  stack = new AsyncDisposableStack()
  const { nodes } = stack.use(await startMesh(3))
  ;[owner, friend, other] = nodes as [Mesh, Mesh, Mesh]
  // Tests ask faster than nodes do.
  const limits = { ...PROBE_CHANNELS, rate: { burst: 1000, perSecond: 1000 } }
  await owner.handle(PROBE_PROTOCOL, (channel, signal) => current.handler(channel, signal), limits)
})
afterAll(() => stack.disposeAsync())

interface Serving {
  policy?: Policy
  probesLoopback?: boolean
  prober?: Prober
}

/** From now on `owner` serves so. Its clock stands still until it is set. */
async function serve({ policy, probesLoopback = true, prober }: Serving = {}): Promise<{
  clock: { nowMs: number }
  probed: ProbeTarget[]
  server: ProbeServer
}> {
  const clock = { nowMs: 0 }
  const probed: ProbeTarget[] = []
  const now = () => clock.nowMs
  const server = new ProbeServer(
    {
      prober:
        prober ??
        new Prober({
          now,
          probe: async (target) => {
            probed.push(target)
            return target.port === 1 ? null : target.port / 1000
          },
        }),
      policy: policy ?? new Policy({}, { node: 'n0' }),
      probesLoopback: () => probesLoopback,
    },
    { now },
  )
  current = server
  return { clock, probed, server }
}

const ask = (targets: readonly ProbeTarget[], from = friend): Promise<ProbeAnswer> =>
  askProbes((peer, protocol, signal) => from.open(peer, protocol, signal), owner.peerId, targets, soon())

/** How many of the targets were measured. */
async function measured(targets: readonly ProbeTarget[], from = friend): Promise<number> {
  const answer = await ask(targets, from)
  if (answer.kind !== 'measured') throw new Error(answer.code)
  return answer.rttsMs.filter((ms) => ms !== null).length
}

const at = (host: number, port = 443): ProbeTarget => ({ address: `192.0.2.${host}`, port })
const hosts = (first: number): ProbeTarget[] => Array.from({ length: 16 }, (_, index) => at(first + index))

test('a peer measures over real TCP what it is asked for', async () => {
  const server = createServer((socket) => socket.resume()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  await using stopping = new AsyncDisposableStack()
  stopping.defer(() => void server.close())
  const prober = stopping.adopt(new Prober(), (used) => used.stop())
  await serve({ prober })
  const answer = await ask([
    { address: '127.0.0.1', port: (server.address() as AddressInfo).port },
    { address: '224.0.0.1', port: 80 },
  ])
  expect(answer).toEqual({ kind: 'measured', rttsMs: [expect.any(Number), null] })
})

test('round trips come back in their order, in microseconds; what is silent as nothing', async () => {
  await serve()
  expect(await ask([at(1, 2500), at(1, 1), at(2, 7)])).toEqual({
    kind: 'measured',
    rttsMs: [2.5, null, 0.007],
  })
})

test('whoever may not send VMs here is told so', async () => {
  const { probed } = await serve({ policy: new Policy({ send: [other.peerId] }, { node: 'n0' }) })
  expect(await ask([at(1)])).toMatchObject({ kind: 'refused', code: 'NOT_PERMITTED' })
  expect(probed).toEqual([])
  expect(await measured([at(1)], other)).toBe(1)
})

test.each([
  '0.0.0.0',
  '127.0.0.1',
  '127.1.2.3',
  '169.254.169.254',
  '224.0.0.251',
  '255.255.255.255',
  '240.0.0.1',
  '::',
  '::1',
  'fe80::1',
  'ff02::1',
])('%s is probed for nobody', async (address) => {
  const { probed } = await serve({ probesLoopback: false })
  expect(await ask([{ address, port: 80 }])).toEqual({ kind: 'measured', rttsMs: [null] })
  expect(probed).toEqual([])
})

test('a peer gets 32 targets at once, and two a second', async () => {
  const { clock } = await serve()
  expect(await measured(hosts(1))).toBe(16)
  expect(await measured(hosts(17))).toBe(16)
  expect(await measured(hosts(33))).toBe(0)
  clock.nowMs += 2_500
  expect(await measured(hosts(49))).toBe(5)
  // Each for itself.
  expect(await measured(hosts(65), other)).toBe(16)
})

test('a host gets 16 probes at once and one in two seconds, whoever asks', async () => {
  const { clock, probed } = await serve()
  const ports = (first: number) => Array.from({ length: 16 }, (_, index) => at(1, first + index))
  expect(await measured(ports(100))).toBe(16)
  expect(await measured(ports(200), other)).toBe(0)
  clock.nowMs += 4_000
  expect(await measured(ports(300), other)).toBe(2)
  expect(probed).toHaveLength(18)
})

test('what two peers ask for at once is probed once', async () => {
  const { probed, clock } = await serve()
  expect(await Promise.all([measured([at(1)]), measured([at(1)], other)])).toEqual([1, 1])
  expect(probed).toHaveLength(1)
  clock.nowMs += 1_600
  expect(await measured([at(1)])).toBe(1)
  expect(probed).toHaveLength(2)
})

test.each<[string, Uint8Array]>([
  ['noise', Buffer.alloc(64, 0xff)],
  ['nothing', new Uint8Array()],
  ['too much', Buffer.alloc(1025)],
])('a peer that asks with %s gets nothing', async (_, bytes) => {
  const { probed } = await serve()
  const channel = await friend.open(owner.peerId, PROBE_PROTOCOL, soon())
  await channel.send(bytes).catch(() => {})
  expect(await codeOf(channel.receive({ maxBytes: 2048, signal: soon() }))).toBe('CHANNEL_RESET')
  expect(probed).toEqual([])
})

test('a peer that answers and keeps its side open is no answer, and the channel is cut', async () => {
  const reset = Promise.withResolvers<unknown>()
  current = {
    handler: async (channel, signal) => {
      await channel.receive({ maxBytes: 1024, signal })
      const results = [{ outcome: 'PROBE_OUTCOME_ANSWERED', rttUs: 1 } as const]
      await channel.send(probeReplyCodec.encode({ kind: 'results', results }), { signal })
      await channel.receive({ maxBytes: 0, signal })
      try {
        for (;;) await channel.send(new Uint8Array(1 << 20), { signal })
      } catch (error) {
        reset.reject(error)
      }
    },
  }
  const asked = askProbes(
    (peer, protocol, signal) => friend.open(peer, protocol, signal),
    owner.peerId,
    [at(1)],
    AbortSignal.timeout(1_000),
  )
  expect(await codeOf(asked)).toBe('MESSAGE_TOO_LARGE')
  expect(await codeOf(reset.promise)).toBe('CHANNEL_RESET')
})

test('a host gets no more because many peers ask for many other hosts meanwhile', async () => {
  const { clock, server } = await serve()
  const other = (index: number) => ({ address: `198.51.${index >> 8}.${index & 255}`, port: 443 })
  const askFor = async (peer: string, targets: ProbeTarget[]) => {
    const [here, there] = channelPair({ peers: [peer, 'owner'] })
    const served = server.handler(there, soon())
    const answer = await askProbes(async () => here, 'owner', targets, soon())
    await served
    return answer.kind === 'measured' ? answer.rttsMs.filter((ms) => ms !== null).length : 0
  }
  expect(
    await askFor(
      'first',
      hosts(1).map(({ port }, index) => at(1, port + index)),
    ),
  ).toBe(16)
  clock.nowMs += 2_000
  for (let index = 0; index < 4096; index += 16) {
    await askFor(
      `peer ${index >> 5}`,
      Array.from({ length: 16 }, (_, place) => other(index + place)),
    )
  }
  clock.nowMs += 1_000
  expect(
    await askFor(
      'last',
      hosts(1).map(({ port }, index) => at(1, port + 20 + index)),
    ),
  ).toBe(1)
})
