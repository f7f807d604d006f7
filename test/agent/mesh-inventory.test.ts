import { expect, test } from 'vitest'
import { meshVms } from '../../src/agent/mesh-inventory.ts'
import type { NodeView, NodeVm } from '../../src/domain/node.ts'
import type { LostVm, Mesh } from '../../src/mesh/index.ts'
import { someFacts, vmNo } from '../support/node-facts.ts'
import { never } from '../template/fixture.ts'

function mesh(vms: readonly NodeVm[], lost: readonly LostVm[]): Mesh {
  const view = {
    peerId: 'b',
    name: 'edge-2',
    vmsListed: true,
    facts: someFacts({ vms }),
  } as unknown as NodeView
  return { directory: () => [view], lostVms: () => lost } as unknown as Mesh
}

const lost = (vm: NodeVm): LostVm => ({ vm, node: { peerId: 'a', name: 'edge-1' }, sinceMs: 1000.4 })

test('VMs of a node that fell silent are listed as unreachable since it was heard last', async () => {
  const { vms } = await meshVms(mesh([vmNo(2)], [lost(vmNo(1))]), never())
  expect(vms).toEqual([
    {
      name: 'vm-1',
      id: vmNo(1).id,
      node: 'edge-1',
      peerId: 'a',
      state: 'unreachable',
      unreachableSinceMs: 1000,
      epoch: 1,
      template: vmNo(1).templateId,
    },
    expect.objectContaining({ name: 'vm-2', node: 'edge-2', state: 'running', unreachableSinceMs: null }),
  ])
})

test('one that a node has after all is not listed twice', async () => {
  const { vms } = await meshVms(mesh([{ ...vmNo(1), epoch: 2 }], [lost(vmNo(1))]), never())
  expect(vms.map(({ node, state }) => [node, state])).toEqual([['edge-2', 'running']])
})
