/** VMs of nodes that fall silent: who is told, what is listed, and what ends that. */
import { expect, test } from 'vitest'
import type { NodeFacts, NodeVm } from '../../src/domain/node.ts'
import { packAnnouncement, unpackAnnouncement } from '../../src/mesh/announcement.ts'
import { Directory, type SignedAnnouncement } from '../../src/mesh/directory.ts'
import { someFacts, vmNo } from '../support/node-facts.ts'

const SELF = '12D3KooWSelf'
const A = '12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq'
const B = '12D3KooWRndVhVZPCiQwHBBBdg769GyrPUW13zxwqQyf9r3ANaba'
const VALID_MS = 52_500
const HOUR_MS = 3_600_000

function said(
  author: string,
  sequence: number,
  vms: readonly NodeVm[],
  { validMs = VALID_MS } = {},
): SignedAnnouncement {
  const facts: NodeFacts = someFacts({ vms })
  const content = { incarnation: 1, sequence, validMs, name: author.slice(-4), addresses: [], facts }
  const bytes = packAnnouncement(content)
  return { author, announcement: unpackAnnouncement(bytes), bytes }
}

const at = (nowMs: number) => ({ nowMs, ageMs: 0 })
const names = (directory: Directory) => directory.lostVms().map(({ vm }) => vm.name)
const stopped: NodeVm = { ...vmNo(3), state: 'stopped' }

/** Knows A with two VMs that ran, and one that didn't, and has not heard it since `heardAtMs`. */
function withoutA(heardAtMs = 0): Directory {
  const directory = new Directory({ selfId: SELF })
  directory.take(said(A, 1, [vmNo(1), vmNo(2), stopped]), at(heardAtMs))
  directory.expire(heardAtMs + VALID_MS)
  return directory
}

test('a node that falls silent is an event once, with the VMs that ran there', () => {
  const directory = new Directory({ selfId: SELF })
  directory.take(said(A, 1, [vmNo(1), vmNo(2), stopped]), at(1000))
  directory.take(said(B, 1, []), at(1000))
  expect(directory.lostVms()).toEqual([])
  const events = directory.expire(1000 + VALID_MS)
  expect(events.map(({ kind }) => kind)).toEqual(['node-expired', 'vms-lost-sight', 'node-expired'])
  expect(events[1]).toEqual({
    kind: 'vms-lost-sight',
    peerId: A,
    node: A.slice(-4),
    vms: [
      { id: vmNo(1).id, name: 'vm-1' },
      { id: vmNo(2).id, name: 'vm-2' },
    ],
  })
  expect(directory.expire(2000 + VALID_MS)).toEqual([])
  expect(directory.lostVms()).toEqual([
    { vm: vmNo(1), node: { peerId: A, name: A.slice(-4) }, sinceMs: 1000 },
    { vm: vmNo(2), node: { peerId: A, name: A.slice(-4) }, sinceMs: 1000 },
  ])
})

test('a node that says farewell, or is removed, has lost nothing', () => {
  for (const leave of [
    (directory: Directory) => directory.take(said(A, 2, [], { validMs: 0 }), at(1)),
    (directory: Directory) => directory.drop(A),
  ]) {
    const directory = new Directory({ selfId: SELF })
    directory.take(said(A, 1, [vmNo(1)]), at(0))
    expect(leave(directory)).toMatchObject({ kind: 'node-expired' })
    expect(directory.expire(VALID_MS)).toEqual([])
    expect(directory.lostVms()).toEqual([])
    // Neither has one that was silent for a while before.
    const silent = withoutA()
    leave(silent)
    expect(silent.lostVms()).toEqual([])
  }
})

test('a VM is found when its node is heard again, or when it is seen elsewhere, unless in an earlier epoch', () => {
  const back = withoutA()
  back.take(said(A, 2, [vmNo(1)]), at(VALID_MS + 1))
  expect(names(back)).toEqual([])

  const moved = withoutA()
  moved.take(said(B, 1, [{ ...vmNo(1), epoch: 2 }]), at(VALID_MS + 1))
  expect(names(moved)).toEqual(['vm-2'])
  moved.take(said(B, 2, []), at(VALID_MS + 2))
  expect(names(moved)).toEqual(['vm-2'])
  moved.take(said(B, 3, [{ ...vmNo(2), epoch: 0 }]), at(VALID_MS + 3))
  expect(names(moved)).toEqual(['vm-2'])

  const here = withoutA()
  const own = said(SELF, 1, [vmNo(2)])
  here.takeOwn(own, own.announcement.facts, VALID_MS + 1)
  expect(names(here)).toEqual(['vm-1'])
})

test('nobody is told of them for ever, nor of too many', () => {
  const directory = withoutA()
  directory.expire(VALID_MS + HOUR_MS - 1)
  expect(names(directory)).toEqual(['vm-1', 'vm-2'])
  directory.expire(VALID_MS + HOUR_MS)
  expect(names(directory)).toEqual([])

  for (let i = 0; i < 300; i++) directory.take(said(`${A}${i}`, 1, [vmNo(i)]), at(HOUR_MS * 2))
  directory.expire(HOUR_MS * 2 + VALID_MS)
  const listed = names(directory)
  expect(listed).toHaveLength(256)
  expect(listed.at(-1)).toBe('vm-299')
})
