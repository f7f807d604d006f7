/** Nodes that don't let others fetch, or have no room for them: what the one that asks makes of it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { Policy } from '../../src/domain/policy.ts'
import { serveTemplate } from '../../src/template/index.ts'
import { ServingPlaces } from '../../src/template/serving-places.ts'
import { templateReplyCodec, templateRequestCodec } from '../../src/wire/template-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { addTemplate, codeOf, never, TestNode } from './fixture.ts'
import { drops, fetchFrom, lyingPeer, TestPeer } from './peers.ts'

const nobody = new Policy({ fetch: [] }, { node: 'closed' })

test('where nobody else has it, the refusal is the error; in whatever order they were asked', async () => {
  await using source = await TestNode.start()
  await using empty = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const closed = () => new TestPeer(serveTemplate(source.store, { policy: nobody }), 'closed')
  const lacking = () => new TestPeer(serveTemplate(empty.store), 'lacking')
  expect(await codeOf(fetchFrom(closed(), target.store, id))).toBe('NOT_PERMITTED')
  expect(await codeOf(fetchFrom([closed(), lacking()], target.store, id))).toBe('NOT_PERMITTED')
  expect(await codeOf(fetchFrom([lacking(), closed()], target.store, id))).toBe('NOT_PERMITTED')
  await expect(fetchFrom(closed(), target.store, id)).rejects.toMatchObject({
    outcome: 'refused',
    message: expect.stringMatching(/closed.*`allow\.fetch`/),
    details: { action: 'fetch', peer: 'closed' },
  })
})

test('where another one has it, it comes from there', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const closed = new TestPeer(serveTemplate(source.store, { policy: nobody }), 'closed')
  const open = new TestPeer(serveTemplate(source.store), 'open')
  const { dropped, onDropped } = drops()
  const { from } = await fetchFrom([closed, open], target.store, id, { onDropped })
  expect(from).toEqual(['open'])
  expect(dropped).toMatchObject([{ peer: 'closed', code: 'NOT_PERMITTED' }])
})

test('one that may no longer in the middle is left, and asked once', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  let asked = 0
  const policy = new Policy({}, { node: 'closing' })
  policy.requirePermitted = (action, peer) => {
    if (++asked > 1) nobody.requirePermitted(action, peer)
  }
  const closing = new TestPeer(serveTemplate(source.store, { policy }), 'closing')
  const { dropped, onDropped } = drops()
  expect(await codeOf(fetchFrom(closing, target.store, id, { onDropped, retryDelaysMs: [1, 1, 1] }))).toBe(
    'NOT_PERMITTED',
  )
  expect(closing.channels).toHaveLength(1)
  expect(dropped).toMatchObject([{ peer: 'closing', code: 'NOT_PERMITTED' }])
})

test('a node serves so many channels, and so many of one peer; who goes makes room', async () => {
  await using source = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const serve = serveTemplate(source.store, { places: new ServingPlaces({ max: 3, maxPerPeer: 2 }) })
  const open = async (peer: string) => {
    const [ours, theirs] = channelPair({ peers: [peer, 'here'] })
    const served = serve(theirs, never()).catch(() => {})
    const ask = async () => {
      await ours.send(templateRequestCodec.encode({ templateId: id, manifest: { offsetBytes: 0 } }))
      const reply = templateReplyCodec.decode((await ours.receive({ maxBytes: 2 ** 20 }))!)
      return 'refusal' in reply ? reply.refusal.code : 'served'
    }
    const leave = async () => {
      await ours.close()
      await served
    }
    return { ask, leave }
  }
  const a = [await open('a'), await open('a'), await open('a')]
  const b = [await open('b'), await open('b')]
  // Who has asked nothing yet takes no place.
  expect([await a[0]!.ask(), await a[1]!.ask(), await a[2]!.ask()]).toEqual([
    'served',
    'served',
    'TOO_MANY_FETCHES',
  ])
  expect([await b[0]!.ask(), await b[1]!.ask()]).toEqual(['served', 'TOO_MANY_FETCHES'])
  expect(await a[0]!.ask()).toBe('served')
  await a[0]!.leave()
  expect([await a[2]!.ask(), await b[1]!.ask()]).toEqual(['served', 'TOO_MANY_FETCHES'])
  for (const { leave } of [...a.slice(1), ...b]) await leave()
  expect(await (await open('a')).ask()).toBe('served')
})

test('a node that has no room for now is tried again', async () => {
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store)
  const places = new ServingPlaces({ max: 1 })
  const busy = new TestPeer(serveTemplate(source.store, { places }), 'busy')
  const slow = lyingPeer(source.store, (reply) => sleep(100, [reply]), 'slow')
  {
    using _place = places.take('another')
    expect(await codeOf(fetchFrom(busy, target.store, id))).toBe('TOO_MANY_FETCHES')
  }
  const place = places.take('another')
  const { dropped, onDropped } = drops()
  const fetching = fetchFrom([slow, busy], target.store, id, { onDropped, retryDelaysMs: [50, 50, 50] })
  await expect.poll(() => busy.channels.length).toBeGreaterThan(1)
  place[Symbol.dispose]()
  await fetching
  expect(dropped).toEqual([])
})
