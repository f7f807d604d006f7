/** Memory kept for herds: what counts, what is taken over, what is freed. */
import { randomUUID } from 'node:crypto'
import { statSync } from 'node:fs'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { CLONE_HEADROOM_BYTES, ownBytes } from '../../src/vm/admission.ts'
import { type Claim, type HerdPlace, Roster } from '../../src/vm/roster.ts'
import { addTemplate, TestNode } from '../template/fixture.ts'

const MIB = 1024 ** 2
const LIMIT_BYTES = 1024 * MIB
const SOURCE = '12D3KooWSource'
const ABSENT = `bafkrei${'a'.repeat(52)}`
const ABSENT_BYTES = 128 * MIB
const PRIVATE_PAGES = 256

let node: TestNode
let roster: Roster

beforeEach(async () => {
  node = await TestNode.start()
  roster = new Roster({ templates: node.store }, { memoryLimitBytes: LIMIT_BYTES })
})
afterEach(() => node[Symbol.asyncDispose]())

function place(changes: Partial<HerdPlace> = {}): HerdPlace {
  return {
    id: randomUUID(),
    source: SOURCE,
    templateId: ABSENT,
    privatePages: PRIVATE_PAGES,
    missingTemplateBytes: ABSENT_BYTES,
    ...changes,
  }
}

function places(count: number, changes: Partial<HerdPlace> = {}): HerdPlace[] {
  return Array.from({ length: count }, () => place(changes))
}

/** The Offer of a VM that a place is kept for. */
function claimOf({ id, templateId, privatePages, missingTemplateBytes }: HerdPlace): Claim {
  return { id, name: `vm-${id}`, nics: [], templateId, privatePages, missingTemplateBytes }
}

/** As many VMs of the absent template as the limit has room for. */
const FULL = Math.floor((LIMIT_BYTES - ABSENT_BYTES) / ownBytes(PRIVATE_PAGES))

const details = (work: () => unknown): Record<string, number> => {
  try {
    work()
  } catch (error) {
    expect(error).toMatchObject({ code: 'NOT_ENOUGH_MEMORY', outcome: 'refused' })
    return (error as { details: Record<string, number> }).details
  }
  throw new Error('it was admitted')
}

test('a herd takes its own memory, and its template once', () => {
  const before = roster.memory().availableBytes
  using _kept = roster.keep(places(3))
  expect(roster.memory()).toMatchObject({
    committedBytes: ABSENT_BYTES,
    reservedBytes: 3 * ownBytes(PRIVATE_PAGES),
    availableBytes: before - ABSENT_BYTES - 3 * ownBytes(PRIVATE_PAGES),
  })
})

test('a template that is here counts as what it takes on disk, not as what the peer says', async () => {
  const { id } = await addTemplate(node.store)
  using _kept = roster.keep(places(2, { templateId: id, missingTemplateBytes: 0 }))
  const allocated = statSync(node.store.files(id).ram).blocks * 512
  expect(roster.memory().committedBytes).toBe(allocated)
})

test('of different sizes of one template the largest counts', () => {
  const herd = [place({ missingTemplateBytes: MIB }), place(), place({ missingTemplateBytes: 2 * MIB })]
  using _kept = roster.keep(herd)
  expect(roster.memory().committedBytes).toBe(ABSENT_BYTES)
})

test('all or nothing: a herd of one too many is told what it needs, and nothing is kept of it', () => {
  const before = roster.memory()
  const { neededBytes, availableBytes } = details(() => roster.keep(places(FULL + 1)))
  expect(neededBytes).toBe(ABSENT_BYTES + (FULL + 1) * ownBytes(PRIVATE_PAGES))
  expect(availableBytes).toBe(before.availableBytes)
  expect(roster.memory().reservedBytes).toBe(0)
  using _kept = roster.keep(places(FULL))
  expect(roster.memory().availableBytes).toBeLessThan(ownBytes(PRIVATE_PAGES))
})

test('a second herd of the same template pays for its own pages alone', () => {
  using _first = roster.keep(places(FULL - 2))
  using _second = roster.keep(places(2))
  expect(details(() => roster.keep(places(1))).neededBytes).toBe(ownBytes(PRIVATE_PAGES))
})

test('every VM of a full herd takes its place over, and nobody comes between', () => {
  const herd = places(FULL)
  using _kept = roster.keep(herd)
  const { reservedBytes } = roster.memory()
  for (const kept of herd) {
    roster.claim(claimOf(kept), { source: SOURCE })
    expect(roster.memory().reservedBytes).toBe(reservedBytes)
    details(() => roster.claim(claimOf(place())))
  }
})

test('what a claim took over stays when the herd is freed, and goes with the claim', () => {
  const herd = places(2)
  const kept = roster.keep(herd)
  const claim = roster.claim(claimOf(herd[0]!), { source: SOURCE })
  kept[Symbol.dispose]()
  expect(roster.memory().reservedBytes).toBe(ownBytes(PRIVATE_PAGES))
  claim[Symbol.dispose]()
  claim[Symbol.dispose]()
  kept[Symbol.dispose]()
  expect(roster.memory()).toMatchObject({ reservedBytes: 0, committedBytes: 0 })
})

test('a place is taken over by its own source alone', () => {
  const herd = places(FULL)
  using _kept = roster.keep(herd)
  details(() => roster.claim(claimOf(herd[0]!), { source: '12D3KooWOther' }))
  details(() => roster.claim(claimOf(herd[0]!)))
  roster.claim(claimOf(herd[0]!), { source: SOURCE })
})

test('a VM that wrote while it waited uses its headroom; beyond that the rest is asked for', () => {
  const herd = places(FULL)
  using _kept = roster.keep(herd)
  const headroomPages = CLONE_HEADROOM_BYTES / 4096
  const grown = (kept: HerdPlace, pages: number) =>
    claimOf({ ...kept, privatePages: kept.privatePages + pages })
  roster.claim(grown(herd[0]!, headroomPages), { source: SOURCE })
  // The node is fuller than full now: not one page more than was promised.
  const { neededBytes, availableBytes } = details(() =>
    roster.claim(grown(herd[1]!, headroomPages + 1), { source: SOURCE }),
  )
  expect({ neededBytes, availableBytes }).toEqual({ neededBytes: 4096, availableBytes: 0 })
  // It was refused, and keeps the place that it had.
  roster.claim(claimOf(herd[1]!), { source: SOURCE })
})

test('a VM that is offered with another template than its place has pays for that one', () => {
  const herd = places(FULL)
  using _kept = roster.keep(herd)
  const other = { ...claimOf(herd[0]!), templateId: `bafkrei${'b'.repeat(52)}` }
  expect(details(() => roster.claim(other, { source: SOURCE })).neededBytes).toBe(
    ABSENT_BYTES - CLONE_HEADROOM_BYTES,
  )
})

test('the template of a herd is in use; a VM of a herd has no name yet, and may be removed here', () => {
  const [kept] = places(1)
  using _kept = roster.keep([kept!])
  expect(roster.namesUsing(ABSENT)).toEqual([kept!.id])
  expect(roster.isClaimed(kept!.id)).toBe(false)
  roster.requireNameFree({ id: kept!.id, name: 'web' })
})
