import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { HostNames } from '../../../src/placement/probing/host-names.ts'

const never = new AbortController().signal

function lab(answers: Record<string, readonly string[]>) {
  const clock = { nowMs: 0 }
  const asked: string[] = []
  const lookup = async (name: string) => {
    asked.push(name)
    const answer = answers[name]
    if (answer === undefined) throw new Error('ENOTFOUND')
    return answer
  }
  const names = new HostNames({ lookup, now: () => clock.nowMs })
  return { answers, clock, asked, of: (host: string) => names.addressOf(host, never) }
}

test('an address is itself, in its usual spelling, and nobody is asked', async () => {
  const { of, asked } = lab({})
  expect(await of('192.0.2.1')).toBe('192.0.2.1')
  expect(await of('2001:db8:0::1')).toBe('2001:db8::1')
  expect(asked).toEqual([])
})

test('a name is looked up once a minute, and its address kept as long as it has it', async () => {
  const { of, asked, answers, clock } = lab({ 'a.example': ['192.0.2.1', '192.0.2.2'] })
  expect(await of('a.example')).toBe('192.0.2.1')
  clock.nowMs = 59_999
  await of('a.example')
  expect(asked).toHaveLength(1)
  clock.nowMs = 60_000
  answers['a.example'] = ['192.0.2.2', '192.0.2.1']
  expect(await of('a.example')).toBe('192.0.2.1')
  clock.nowMs = 120_000
  answers['a.example'] = ['192.0.2.2']
  expect(await of('a.example')).toBe('192.0.2.2')
  expect(asked).toHaveLength(3)
})

test('while the resolver fails, the last address counts for ten minutes', async () => {
  const { of, answers, clock } = lab({ 'a.example': ['192.0.2.1'] })
  await of('a.example')
  delete answers['a.example']
  clock.nowMs = 540_000
  expect(await of('a.example')).toBe('192.0.2.1')
  clock.nowMs = 600_000
  expect(await of('a.example')).toBeNull()
})

test('a name that is not found is not asked for again at once', async () => {
  const { of, asked } = lab({})
  expect(await of('gone.example')).toBeNull()
  expect(await of('gone.example')).toBeNull()
  expect(asked).toHaveLength(1)
})

test('a resolver that hangs is waited for no longer than two seconds, and not after the end', async () => {
  const names = new HostNames({ lookup: () => new Promise(() => {}) })
  const startMs = performance.now()
  expect(await names.addressOf('a.example', AbortSignal.timeout(100))).toBeNull()
  expect(performance.now() - startMs).toBeLessThan(1_000)
  expect(await names.addressOf('b.example', never)).toBeNull()
  expect(performance.now() - startMs).toBeLessThan(3_500)
})

test('the system looks names up', async () => {
  expect(await new HostNames().addressOf('localhost', never)).toMatch(/^(127\.0\.0\.1|::1)$/)
})

test('who asks for a name at the same time gets the same address, of one look-up', async () => {
  const answers = [
    ['192.0.2.1', '192.0.2.2'],
    ['192.0.2.2', '192.0.2.1'],
  ]
  let lookups = 0
  const names = new HostNames({ lookup: async () => answers[lookups++]! })
  const [one, two] = await Promise.all([
    names.addressOf('a.example', never),
    names.addressOf('a.example', never),
  ])
  expect([one, two]).toEqual(['192.0.2.1', '192.0.2.1'])
  expect(lookups).toBe(1)
})

test('a resolver that is slow is not asked again before it has answered, and its answer counts', async () => {
  const { promise, resolve } = Promise.withResolvers<string[]>()
  const clock = { nowMs: 0 }
  let lookups = 0
  const lookup = () => {
    lookups++
    return promise
  }
  const names = new HostNames({ lookup, now: () => clock.nowMs })
  expect(await names.addressOf('a.example', AbortSignal.timeout(20))).toBeNull()
  clock.nowMs = 120_000
  expect(await names.addressOf('a.example', AbortSignal.timeout(20))).toBeNull()
  resolve(['192.0.2.1'])
  // Nobody waits for it at that moment.
  await setImmediate()
  expect(await names.addressOf('a.example', never)).toBe('192.0.2.1')
  expect(lookups).toBe(1)
})
