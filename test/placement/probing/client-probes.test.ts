import { expect, test } from 'vitest'
import type { VmClient } from '../../../src/domain/client.ts'
import { MAX_SHORTLIST } from '../../../src/placement/index.ts'
import type { ProbeAnswer } from '../../../src/placement/probing/ask.ts'
import {
  ClientProbes,
  type ClientProbesComponents,
  type ProbedVm,
} from '../../../src/placement/probing/client-probes.ts'
import type { ProbeTarget } from '../../../src/wire/probe-messages.ts'

const client = (host: string, weight = 1): VmClient => ({ host, port: 443, weight })
const vm = (id: string, ...clients: VmClient[]): ProbedVm => ({ id, templateId: 't', clients })
const never = new AbortController().signal

/** A node `here` among others: what each of them has to an address is the test's to say. */
class Lab {
  vms: ProbedVm[] = []
  /** By node and address, in ms. */
  rttsMs: Record<string, Record<string, number>> = {}
  refusing = new Set<string>()
  nowMs = 0
  readonly asked: [string, readonly ProbeTarget[]][] = []
  readonly probes: ClientProbes

  constructor(peers: readonly string[]) {
    const components: ClientProbesComponents = {
      prober: { measure: async ({ address }) => this.rttsMs.here?.[address] ?? null },
      names: { addressOf: async (host) => (host === 'gone.example' ? null : host) },
      vms: async () => this.vms,
      nodes: () => peers.map((peerId) => ({ peerId, coordinate: null, holds: () => false })),
      self: () => ({ peerId: 'here', coordinate: null }),
      ask: async (peer, targets) => this.#answer(peer, targets),
    }
    this.probes = new ClientProbes(components, { now: () => this.nowMs, random: () => 0.5 })
  }

  #answer(peer: string, targets: readonly ProbeTarget[]): ProbeAnswer {
    this.asked.push([peer, targets])
    if (this.refusing.has(peer)) return { kind: 'refused', code: 'NOT_PERMITTED', message: 'no' }
    const rtts = this.rttsMs[peer]
    if (rtts === undefined) throw new Error('nobody there')
    return { kind: 'measured', rttsMs: targets.map(({ address }) => rtts[address] ?? null) }
  }

  /** A round, and who was asked in it. */
  async round(): Promise<string[]> {
    this.asked.length = 0
    await this.probes.round(never)
    return this.asked.map(([peer]) => peer).toSorted()
  }

  latency(id: string): Record<string, number> {
    return Object.fromEntries(this.probes.samples(id, []).at(-1)?.latencyMs ?? [])
  }
}

test('a sample has what clients have from here and from every node that was asked, by their weights', async () => {
  const lab = new Lab(['a', 'b'])
  lab.vms = [vm('1', client('192.0.2.1', 3), client('192.0.2.2'))]
  lab.rttsMs = {
    here: { '192.0.2.1': 20, '192.0.2.2': 40 },
    a: { '192.0.2.1': 4, '192.0.2.2': 8 },
    b: { '192.0.2.1': 100, '192.0.2.2': 100 },
  }
  expect(await lab.round()).toEqual(['a', 'b'])
  expect(lab.latency('1')).toEqual({ here: 25, a: 5, b: 100 })
  expect(lab.probes.samples('1', [])).toHaveLength(1)
})

test('a client that is not found, or that this node does not reach, counts for nobody', async () => {
  const lab = new Lab(['a'])
  lab.vms = [vm('1', client('gone.example', 9), client('192.0.2.1'), client('192.0.2.2'))]
  lab.rttsMs = { here: { '192.0.2.1': 20 }, a: { '192.0.2.1': 4, '192.0.2.2': 8 } }
  await lab.round()
  expect(lab.asked).toEqual([
    [
      'a',
      [
        { address: '192.0.2.1', port: 443 },
        { address: '192.0.2.2', port: 443 },
      ],
    ],
  ])
  expect(lab.latency('1')).toEqual({ here: 20, a: 4 })
})

test('a node that does not reach a client is not in the sample', async () => {
  const lab = new Lab(['a', 'b'])
  lab.vms = [vm('1', client('192.0.2.1'), client('192.0.2.2'))]
  lab.rttsMs = {
    here: { '192.0.2.1': 20, '192.0.2.2': 20 },
    a: { '192.0.2.1': 1 },
    b: { '192.0.2.1': 5, '192.0.2.2': 5 },
  }
  await lab.round()
  expect(lab.latency('1')).toEqual({ here: 20, b: 5 })
})

test('a VM without clients is not probed, and one that has gone is forgotten', async () => {
  const lab = new Lab(['a'])
  lab.rttsMs = { here: { '192.0.2.1': 20 }, a: { '192.0.2.1': 4 } }
  lab.vms = [vm('1'), vm('2', client('192.0.2.1'))]
  await lab.round()
  expect(lab.latency('1')).toEqual({})
  expect(lab.latency('2')).toEqual({ here: 20, a: 4 })
  lab.vms = [vm('1')]
  expect(await lab.round()).toEqual([])
  expect(lab.probes.samples('2', [])).toEqual([])
})

test('what was sampled goes with clients that are mostly others, and stays with those that are mostly the same', async () => {
  const lab = new Lab([])
  lab.rttsMs = { here: { '192.0.2.1': 20, '192.0.2.2': 20 } }
  lab.vms = [vm('1', client('192.0.2.1'))]
  await lab.round()
  lab.vms = [vm('1', client('192.0.2.1'), client('192.0.2.2'))]
  await lab.round()
  expect(lab.probes.samples('1', [])).toHaveLength(2)
  lab.vms = [vm('1', client('192.0.2.2'))]
  await lab.round()
  expect(lab.probes.samples('1', [])).toHaveLength(3)
  lab.vms = [vm('1', client('192.0.2.1'))]
  await lab.round()
  expect(lab.probes.samples('1', [])).toHaveLength(1)
})

test.each([
  ['refuses', 'NOT_PERMITTED', (lab: Lab) => void lab.refusing.add('a')],
  ['does not answer', 'PEER_UNREACHABLE', (lab: Lab) => void delete lab.rttsMs.a],
])('a node that %s is asked again after 5 s, then 10', async (_, code, break_) => {
  const lab = new Lab(['a', 'b'])
  lab.vms = [vm('1', client('192.0.2.1'))]
  lab.rttsMs = { here: { '192.0.2.1': 20 }, a: { '192.0.2.1': 4 }, b: { '192.0.2.1': 5 } }
  break_(lab)
  expect(await lab.round()).toEqual(['a', 'b'])
  expect(lab.latency('1')).toEqual({ here: 20, b: 5 })
  expect(lab.probes.troubles()).toEqual(new Map([['a', code]]))
  lab.nowMs = 4_999
  expect(await lab.round()).toEqual(['b'])
  lab.nowMs = 5_000
  expect(await lab.round()).toEqual(['a', 'b'])
  lab.nowMs = 14_999
  expect(await lab.round()).toEqual(['b'])
  lab.nowMs = 15_000
  lab.refusing.clear()
  lab.rttsMs.a = { '192.0.2.1': 4 }
  expect(await lab.round()).toEqual(['a', 'b'])
  expect(lab.probes.troubles()).toEqual(new Map())
})

test('VMs whose clients do not fit into one round take turns, each with all of its clients', async () => {
  const lab = new Lab(['a'])
  const hosts = (first: number) => Array.from({ length: 9 }, (_, index) => `192.0.2.${first + index}`)
  const all = Object.fromEntries([...hosts(0), ...hosts(9), ...hosts(18)].map((host) => [host, 10]))
  lab.rttsMs = { here: all, a: all }
  lab.vms = [0, 9, 18].map((first) => vm(String(first), ...hosts(first).map((host) => client(host))))
  const counts = () => lab.vms.map(({ id }) => lab.probes.samples(id, []).length)
  for (const [round, expected] of [
    [1, [1, 0, 0]],
    [2, [1, 1, 0]],
    [3, [1, 1, 1]],
    [4, [2, 1, 1]],
  ] as const) {
    lab.nowMs = round
    await lab.round()
    expect(lab.asked.map(([, targets]) => targets.length)).toEqual([9])
    expect(counts()).toEqual(expected)
  }
})

test('VMs with the same clients are probed together', async () => {
  const lab = new Lab(['a'])
  lab.rttsMs = { here: { '192.0.2.1': 20 }, a: { '192.0.2.1': 4 } }
  lab.vms = [vm('1', client('192.0.2.1')), vm('2', client('192.0.2.1', 7))]
  await lab.round()
  expect(lab.asked).toEqual([['a', [{ address: '192.0.2.1', port: 443 }]]])
  expect(lab.latency('1')).toEqual(lab.latency('2'))
})

test('in a large mesh some nodes are asked for a VM, those that were near again', async () => {
  const peers = Array.from({ length: 40 }, (_, index) => `peer-${index}`)
  const lab = new Lab(peers)
  lab.vms = [vm('1', client('192.0.2.1'))]
  lab.rttsMs = { here: { '192.0.2.1': 20 } }
  for (const [index, peer] of peers.entries()) lab.rttsMs[peer] = { '192.0.2.1': 100 - index }
  const first = await lab.round()
  expect(first).toHaveLength(MAX_SHORTLIST)
  const nearest = Object.entries(lab.latency('1'))
    .filter(([node]) => node !== 'here')
    .toSorted(([, a], [, b]) => a - b)
  for (const [node] of nearest.slice(0, 3)) expect(await lab.round()).toContain(node)
})

test('once started it goes on by itself, until it is stopped', async () => {
  const lab = new Lab(['a'])
  lab.rttsMs = { here: { '192.0.2.1': 20 }, a: { '192.0.2.1': 4 } }
  lab.vms = [vm('1', client('192.0.2.1'))]
  lab.probes.start()
  await expect.poll(() => lab.latency('1'), { timeout: 2_000 }).toEqual({ here: 20, a: 4 })
  await lab.probes.stop()
})

test('what clients had that the VM has no more is told to nobody, before the next round already', async () => {
  const lab = new Lab(['a'])
  const [before, after] = [[client('192.0.2.1')], [client('192.0.2.2')]]
  lab.vms = [vm('1', ...before)]
  lab.rttsMs = { here: { '192.0.2.1': 20 }, a: { '192.0.2.1': 4 } }
  await lab.round()
  expect(lab.probes.samples('1', before)).toHaveLength(1)
  expect(lab.probes.samples('1', after)).toEqual([])
  // None named: those who are connected, whoever they are.
  expect(lab.probes.samples('1', [])).toHaveLength(1)
})
