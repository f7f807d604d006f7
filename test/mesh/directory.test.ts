import { expect, test } from 'vitest'
import type { NodeFacts } from '../../src/domain/node.ts'
import { packAnnouncement, unpackAnnouncement } from '../../src/mesh/announcement.ts'
import { Directory, type SignedAnnouncement } from '../../src/mesh/directory.ts'
import { MAX_ANNOUNCEMENT_BYTES } from '../../src/wire/announcement-message.ts'
import { someFacts, templateNo, vmNo } from '../support/node-facts.ts'

const SELF = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'
const A = '12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq'
const B = '12D3KooWRndVhVZPCiQwHBBBdg769GyrPUW13zxwqQyf9r3ANaba'
const VALID_MS = 52_500

/** What would have arrived; how it was signed is no matter here. */
function said(
  author: string,
  sequence: number,
  facts: Partial<NodeFacts> = {},
  { name = author.slice(-4), incarnation = 1, validMs = VALID_MS } = {},
): SignedAnnouncement {
  const bytes = packAnnouncement({
    incarnation,
    sequence,
    validMs,
    name,
    addresses: [`/ip4/192.0.2.1/tcp/4710/p2p/${author}`],
    facts: someFacts(facts),
  })
  return { author, announcement: unpackAnnouncement(bytes), bytes }
}

const now = (nowMs: number, ageMs = 0) => ({ nowMs, ageMs })

test('newer replaces older, whatever comes last', () => {
  const directory = new Directory({ selfId: SELF })
  expect(directory.take(said(A, 2, { load: 0.2 }), now(0))).toMatchObject({
    kind: 'node-announced',
    peerId: A,
  })
  for (const order of [
    { incarnation: 1, sequence: 1 },
    { incarnation: 1, sequence: 2 },
    { incarnation: 0, sequence: 9 },
  ]) {
    expect(directory.weigh(A, order)).toBe('stale')
  }
  directory.take(said(A, 1, { load: 0.1 }), now(1))
  expect(directory.get(A)?.facts.load).toBe(0.2)
  directory.take(said(A, 0, { load: 0.5 }, { incarnation: 2 }), now(2))
  expect(directory.get(A)?.facts.load).toBe(0.5)
  expect(directory.size).toBe(2)
})

test('nobody speaks for this node', () => {
  const directory = new Directory({ selfId: SELF })
  expect(directory.weigh(SELF, { incarnation: 9, sequence: 9 })).toBe('stale')
})

test('a node is an event when it is new or has other templates, not at each beat', () => {
  const directory = new Directory({ selfId: SELF })
  const kinds = [
    said(A, 1),
    said(A, 2, { load: 2 }),
    said(A, 3, { templates: [templateNo(1)] }),
    said(A, 4, { templates: [templateNo(1)], vms: [vmNo(1)] }),
    said(A, 5, { templates: [templateNo(2)] }),
  ].map((signed) => directory.take(signed, now(0))?.templatesTotal ?? null)
  expect(kinds).toEqual([0, null, 1, null, 1])
})

test('who is silent is forgotten when its word has run out, and old words do not bring it back', () => {
  const directory = new Directory({ selfId: SELF })
  directory.take(said(A, 1), now(0))
  expect(directory.expire(VALID_MS - 1)).toEqual([])
  expect(directory.expire(VALID_MS)).toMatchObject([{ kind: 'node-expired', peerId: A }])
  expect(directory.views()).toEqual([])
  expect(directory.weigh(A, { incarnation: 1, sequence: 1 })).toBe('stale')
  expect(directory.weigh(A, { incarnation: 1, sequence: 2 })).toBe('news')
})

test('what was on its way for long counts for the rest of its time, and is handed on with its age', () => {
  const directory = new Directory({ selfId: SELF })
  directory.take(said(A, 1), now(1000, 50_000))
  expect(directory.get(A)?.expiresAtMs).toBe(1000 + VALID_MS - 50_000)
  expect([...directory.lackedBy(new Uint8Array(), 1500)]).toMatchObject([{ ageMs: 50_500 }])
})

test('a farewell is obeyed at once', () => {
  const directory = new Directory({ selfId: SELF })
  directory.take(said(A, 1), now(0))
  expect(directory.take(said(A, 2, {}, { validMs: 0 }), now(1))).toMatchObject({ kind: 'node-expired' })
  expect(directory.size).toBe(1)
  expect(directory.weigh(A, { incarnation: 1, sequence: 1 })).toBe('stale')
})

test('a full directory takes no strangers, and still hears those it knows', () => {
  const directory = new Directory({ selfId: SELF, maxNodes: 1 })
  directory.take(said(A, 1), now(0))
  expect(directory.weigh(B, { incarnation: 1, sequence: 1 })).toBe('full')
  expect(directory.weigh(A, { incarnation: 1, sequence: 2 })).toBe('news')
})

test('templates are found where they are listed, and where they are in a filter', () => {
  const directory = new Directory({ selfId: SELF })
  const many = Array.from({ length: 1000 }, (_, index) => templateNo(index))
  directory.take(said(A, 1, { templates: many }), now(0))
  directory.take(said(B, 1, { templates: [templateNo(7)] }), now(0))
  expect(directory.providers(templateNo(7))).toEqual({ listed: [B], probable: [A] })
  expect(directory.get(A)).toMatchObject({
    templatesListed: false,
    templatesTotal: 1000,
    facts: { templates: [] },
  })
  expect(many.every((id) => directory.providers(id).probable.includes(A))).toBe(true)
  const strangers = Array.from({ length: 5000 }, (_, index) => templateNo(10_000 + index))
  const wrong = strangers.filter((id) => directory.providers(id).probable.length > 0).length
  // 2 KiB for 1000 templates: (1 - e^(-7/16.4))^7 = 0.04 %; 0.8 % is what is promised.
  expect(wrong / strangers.length).toBeLessThan(0.008)
})

test('VMs lead to their nodes, the one with the latest epoch first', () => {
  const directory = new Directory({ selfId: SELF })
  directory.take(said(A, 1, { vms: [{ ...vmNo(1), epoch: 3 }] }), now(0))
  directory.take(said(B, 1, { vms: [{ ...vmNo(1), epoch: 4 }, vmNo(2)] }), now(0))
  expect(directory.nodesOfVm('vm-1').map(({ peerId }) => peerId)).toEqual([B, A])
  expect(directory.nodesOfVm(vmNo(2).id).map(({ peerId }) => peerId)).toEqual([B])
  expect(directory.nodesOfVm('vm-3')).toEqual([])
})

test('what a directory lacks is what the other one gives', () => {
  const [ours, theirs] = [new Directory({ selfId: SELF }), new Directory({ selfId: B })]
  theirs.takeOwn(said(B, 1), someFacts(), 0)
  theirs.take(said(A, 2), now(0))
  ours.take(said(A, 1), now(0))
  expect([...theirs.lackedBy(ours.known(), 0)]).toHaveLength(2)
  ours.take(said(A, 2), now(0))
  const lacked = [...theirs.lackedBy(ours.known(), 0)]
  expect(lacked.map(({ envelope }) => unpackAnnouncement(envelope).name)).toEqual([B.slice(-4)])
})

test('a peer is overdue when it is unknown or a beat was missed', () => {
  const directory = new Directory({ selfId: SELF })
  expect(directory.isOverdue(A, 0)).toBe(true)
  directory.take(said(A, 1), now(0))
  expect(directory.isOverdue(A, 16_500)).toBe(false)
  expect(directory.isOverdue(A, 20_000)).toBe(true)
})

test('an announcement says all that fits, and how much there is', () => {
  const templates = Array.from({ length: 64 }, (_, index) => templateNo(index))
  const vms = Array.from({ length: 200 }, (_, index) => ({
    ...vmNo(index, templateNo(index % 80)),
    name: `vm-${index}`.padEnd(63, 'x'),
  }))
  const { announcement, bytes } = said(A, 1, { templates, vms })
  expect(bytes.length).toBeLessThanOrEqual(MAX_ANNOUNCEMENT_BYTES)
  expect(announcement).toMatchObject({
    templatesListed: true,
    templatesTotal: 64,
    vmsListed: false,
    vmsTotal: 200,
  })
  expect(announcement.facts.templates).toEqual(templates)
  expect(announcement.facts.vms.length).toBeGreaterThan(40)
  expect(announcement.facts.vms).toEqual(vms.slice(0, announcement.facts.vms.length))
})

test('an ordinary node is said in less than 1000 bytes, and read as it was written', () => {
  const templates = Array.from({ length: 5 }, (_, index) => templateNo(index))
  const facts = someFacts({ templates, vms: [1, 2, 3, 4, 5].map((index) => vmNo(index)) })
  const { announcement, bytes } = said(A, 1, facts)
  expect(announcement.facts).toEqual(facts)
  expect(bytes.length).toBeLessThan(800)
})
