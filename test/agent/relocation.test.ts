/** Where VMs go that must leave: which nodes can have one, which is asked first, and what is counted on the way. */
import { expect, onTestFinished, test, vi } from 'vitest'
import { candidateNode, type MachineNeeds, unfit } from '../../src/agent/relocation/candidates.ts'
import { Promises } from '../../src/agent/relocation/promises.ts'
import { Surroundings, type SurroundingsComponents } from '../../src/agent/relocation/surroundings.ts'
import { steadyNowMs } from '../../src/domain/clock.ts'
import type { NodeFacts, NodeView } from '../../src/domain/node.ts'
import type { VmRecord } from '../../src/domain/vm.ts'
import { someFacts, templateNo } from '../support/node-facts.ts'
import { someVmSpec } from '../support/vm-spec.ts'

const WEB = templateNo(1)
const NEEDS: MachineNeeds = {
  templateId: WEB,
  accelerator: 'tcg',
  machineType: 'pc-q35-7.2',
  qemuVersion: '7.2.22',
}

function view(facts: Partial<NodeFacts> = {}): NodeView {
  return {
    peerId: 'there',
    name: 'edge-2',
    addresses: [],
    facts: someFacts(facts),
    templatesTotal: 0,
    vmsTotal: 0,
    templatesListed: true,
    vmsListed: true,
    receivedAtMs: 1000,
    expiresAtMs: 2000,
    self: false,
  }
}

const qemu = someFacts().qemu!

test.each<[string, Partial<NodeFacts>, ReturnType<typeof unfit>]>([
  ['an ordinary node', {}, null],
  [
    'one that is full: it judges that itself',
    { memory: { ...someFacts().memory!, availableBytes: 0 } },
    null,
  ],
  ['a draining one', { draining: true }, 'NODE_DRAINING'],
  ['one without QEMU', { qemu: null }, 'QEMU_NOT_FOUND'],
  ['one that runs no VMs', { memory: null }, 'QEMU_NOT_FOUND'],
  ['one with KVM, for a guest of TCG', { qemu: { ...qemu, accelerator: 'kvm' } }, 'TEMPLATE_NOT_RUNNABLE'],
  [
    'one without the machine type',
    { qemu: { ...qemu, machineTypes: ['pc-q35-7.1'] } },
    'TEMPLATE_NOT_RUNNABLE',
  ],
  ['one with an older QEMU', { qemu: { ...qemu, version: '7.1.9' } }, 'QEMU_TOO_OLD'],
  ['one with another patch level', { qemu: { ...qemu, version: '7.2.1' } }, null],
])('%s', (_what, facts, expected) => {
  expect(unfit(view(facts), NEEDS)).toBe(expected)
})

test('placement sees of a node what it announced, less what is on its way there', () => {
  const known = { holds: () => true, bandwidthBytesPerSecond: null, movesIn: 1, promisedBytes: 1e9 }
  expect(candidateNode(view({ load: 0.7 }), [NEEDS], known)).toEqual({
    peerId: 'there',
    name: 'edge-2',
    takesVms: true,
    templates: new Set([WEB]),
    unrunnable: new Set(),
    availableBytes: 3e9,
    load: 0.7,
    bandwidthBytesPerSecond: null,
    movesIn: 1,
  })
  const other = { ...NEEDS, templateId: templateNo(2), machineType: 'pc-q35-10.0' }
  const lacking = { ...known, holds: (id: string) => id === other.templateId, promisedBytes: 9e9 }
  expect(candidateNode(view({ draining: true }), [NEEDS, other], lacking)).toMatchObject({
    takesVms: false,
    templates: new Set([other.templateId]),
    availableBytes: 0,
  })
  expect(candidateNode(view(), [NEEDS, other], lacking).unrunnable).toEqual(new Set([other.templateId]))
})

test('memory is promised until its node has counted it, and free again where a move failed', () => {
  const promises = new Promises()
  const at = (saidAtMs: number, nowMs = saidAtMs) => promises.to('there', { saidAtMs, nowMs })
  expect(at(0)).toEqual({ bytes: 0, onTheirWay: 0 })
  const first = promises.begin('there', 100)
  const second = promises.begin('there', 20)
  promises.begin('elsewhere', 3)
  expect(at(1000)).toEqual({ bytes: 120, onTheirWay: 2 })
  second.failed()
  first.arrived(2000)
  // What it said before that one came.
  expect(at(1999, 2001)).toEqual({ bytes: 100, onTheirWay: 0 })
  expect(at(2001)).toEqual({ bytes: 0, onTheirWay: 0 })
  // A node that says nothing more isn't full for ever.
  promises.begin('there', 5).arrived(3000)
  expect(at(0, 3_000_000)).toEqual({ bytes: 0, onTheirWay: 0 })
})

test('a clock that is set back makes no VM younger, and its cool-down no longer', () => {
  const surroundings = new Surroundings({
    vms: { ownMemoryBytes: () => 0 },
    templates: { ramBytes: () => 0 },
    latencySamples: () => [],
  } as unknown as SurroundingsComponents)
  const nowMs = Math.round(steadyNowMs())
  const coolDown = { remainingMs: 60_000, lengthMs: 60_000, previousNode: 'a', sinceMoveMs: 0 }
  const record = {
    spec: someVmSpec({ id: 'vm', name: 'web-1', templateId: WEB }),
    epoch: 1,
    state: { kind: 'stopped', reason: 'it was', doubt: null },
    runDirName: 'vm',
    createdAtMs: nowMs - 10_000,
    coolDown: { ...coolDown, atMs: nowMs - 10_000 },
  } satisfies VmRecord
  vi.useFakeTimers({ toFake: ['Date'], now: nowMs - 86_400_000 })
  onTestFinished(() => void vi.useRealTimers())
  const { ageMs, coolDown: left } = surroundings.vm(record)
  expect(ageMs).toBeGreaterThanOrEqual(10_000)
  expect(left.remainingMs).toBeLessThanOrEqual(50_000)
})
