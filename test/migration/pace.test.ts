import { expect, test } from 'vitest'
import { batchPages, Pace } from '../../src/migration/pace.ts'

const signal = new AbortController().signal
const MIB = 1024 ** 2

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now()
  await work()
  return performance.now() - startedMs
}

test('without a limit nobody waits', async () => {
  const pace = new Pace(null)
  const tookMs = await timed(async () => {
    for (let i = 0; i < 1000; i++) await pace.wait(MIB, { signal, urgent: false })
  })
  expect(tookMs).toBeLessThan(500)
})

test('moves that go side by side share one rate', async () => {
  const pace = new Pace(10 * MIB)
  const send = async () => {
    for (let i = 0; i < 2; i++) await pace.wait(MIB, { signal, urgent: false })
  }
  // Eight batches of a tenth of a second; the first one goes at once.
  const tookMs = await timed(() => Promise.all([send(), send(), send(), send()]))
  expect(tookMs).toBeGreaterThan(650)
  expect(tookMs).toBeLessThan(2_000)
})

test('short frames take their time, too: each is a packet', async () => {
  const pace = new Pace(10_000)
  // 25 bytes of 8 zero pages, 100 of headers: 12.5 ms.
  const tookMs = await timed(async () => {
    for (let i = 0; i < 50; i++) await pace.wait(25, { signal, urgent: false })
  })
  expect(tookMs).toBeGreaterThan(500)
  expect(tookMs).toBeLessThan(2_000)
})

test('time that was not used is not saved up', async () => {
  const pace = new Pace(10 * MIB)
  await pace.wait(MIB, { signal, urgent: false })
  await new Promise((resolve) => setTimeout(resolve, 500))
  const tookMs = await timed(async () => {
    for (let i = 0; i < 3; i++) await pace.wait(MIB, { signal, urgent: false })
  })
  expect(tookMs).toBeGreaterThan(150)
})

test('while a guest stands still its bytes go first, and the others say what they waited', async () => {
  const pace = new Pace(20 * MIB)
  await pace.wait(MIB, { signal, urgent: false })
  const order: string[] = []
  const blackout = pace.blackout()
  const others = [1, 2, 3].map(async () => {
    const heldMs = await pace.wait(MIB, { signal, urgent: false })
    order.push('other')
    return heldMs
  })
  await pace.wait(4096, { signal, urgent: true })
  order.push('urgent')
  blackout[Symbol.dispose]()
  for (const heldMs of await Promise.all(others)) expect(heldMs).toBeGreaterThan(20)
  expect(order).toEqual(['urgent', 'other', 'other', 'other'])
})

test('a blackout that does not end holds the others for a second, not for ever', async () => {
  const pace = new Pace(null)
  using _blackout = pace.blackout()
  const tookMs = await timed(() => pace.wait(MIB, { signal, urgent: false }))
  expect(tookMs).toBeGreaterThan(900)
  expect(tookMs).toBeLessThan(5_000)
})

test.each([{ what: 'for its turn' }, { what: 'for a blackout' }])(
  'who waits $what can give up',
  async ({ what }) => {
    const pace = new Pace(1000)
    await pace.wait(MIB, { signal, urgent: false })
    using _blackout = what === 'for a blackout' ? pace.blackout() : null
    const gaveUp = new AbortController()
    const waiting = pace.wait(1, { signal: gaveUp.signal, urgent: false })
    setTimeout(() => gaveUp.abort(), 50)
    await expect(waiting).rejects.toMatchObject({ name: 'AbortError' })
  },
)

test.each([
  [null, 256],
  [125_000_000, 256],
  [4_000_000, 19],
  [1_250_000, 8],
  [1_000, 8],
])('under a limit of %s bytes per second a frame holds %i pages', (bytesPerSecond, pages) => {
  expect(batchPages(bytesPerSecond)).toBe(pages)
})
