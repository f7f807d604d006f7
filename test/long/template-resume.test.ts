/** A fetching agent that is killed, ten times at random moments: it goes on where it was. */
import { randomInt } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { serveTemplate, TEMPLATE_PROTOCOL } from '../../src/template/index.ts'
import type { Channel } from '../../src/wire/channel.ts'
import { templateRequestCodec } from '../../src/wire/template-messages.ts'
import { AgentUnderTest } from '../support/drover.ts'
import { type LargeTemplate, largeTemplate } from '../support/large-template.ts'
import { startNode } from '../support/mesh-pair.ts'

const CHUNKS = 192
const KILLS = 10
/** So long the provider takes for each answer: all of it takes about 4 s. */
const ANSWER_MS = 20
/** From the moment that the provider was asked for pages. */
const MAX_UNTIL_KILL_MS = 350
/** What was on its way when the agent died. */
const MAX_TWICE_PER_KILL = 2
const MEET_TIMEOUT_MS = 60_000

const cleanup = new AsyncDisposableStack()
let template: LargeTemplate
let fetcher: AgentUnderTest
/** How often the pages of each chunk were sent. */
const sent = new Map<number, number>()
let onPages = () => {}

beforeAll(async () => {
  template = cleanup.use(await largeTemplate(CHUNKS))
  const provider = cleanup.use(await startNode('provider'))
  const serve = serveTemplate(template.store)
  await provider.mesh.handle(TEMPLATE_PROTOCOL, (channel, signal) => serve(counted(channel), signal))
  fetcher = cleanup.use(
    await AgentUnderTest.start({
      name: 'fetcher',
      flags: ['--qemu', '/nonexistent', '--join', provider.mesh.token()],
    }),
  )
})
afterAll(() => cleanup.disposeAsync())

/** Counts the chunks that are asked for, and takes its time to answer. */
function counted(channel: Channel): Channel {
  return {
    get peer() {
      return channel.peer
    },
    get bytesSent() {
      return channel.bytesSent
    },
    get bytesReceived() {
      return channel.bytesReceived
    },
    receive: async (options) => {
      const bytes = await channel.receive(options)
      if (bytes === null) return null
      const request = templateRequestCodec.decode(bytes)
      if ('pages' in request) {
        for (const { chunk } of request.pages.chunks) sent.set(chunk, (sent.get(chunk) ?? 0) + 1)
        onPages()
        await sleep(ANSWER_MS)
      }
      return bytes
    },
    send: (message, options) => channel.send(message, options),
    close: () => channel.close(),
    abort: (error) => channel.abort(error),
  }
}

const twice = (): number => [...sent.values()].reduce((sum, times) => sum + times - 1, 0)

test('killed at ten random moments, it fetches two chunks twice at most each time', async () => {
  const { id } = template.record
  for (let kill = 0; kill < KILLS; kill++) {
    await vi.waitFor(() => fetcher.json('peer', 'ping', 'provider'), {
      timeout: MEET_TIMEOUT_MS,
      interval: 200,
    })
    const begun = Promise.withResolvers<void>()
    onPages = begun.resolve
    const pulling = fetcher.run(['template', 'pull', id, '--json'])
    await begun.promise
    await sleep(randomInt(MAX_UNTIL_KILL_MS))
    await fetcher.stop('SIGKILL')
    expect((await pulling).code).toBe(1)
    const chunks = sent.size
    await fetcher.start()
    // Nothing half is seen, and what was got is kept.
    expect(await fetcher.json('template', 'ls')).toEqual({ templates: [] })
    expect(await readdir(join(fetcher.dataDir, 'templates'))).toEqual([`fetch-${id}`])
    expect(chunks).toBeLessThan(CHUNKS)
  }
  await vi.waitFor(() => fetcher.json('peer', 'ping', 'provider'), {
    timeout: MEET_TIMEOUT_MS,
    interval: 200,
  })
  const pulled = await fetcher.json<{ id: string }>('template', 'pull', id)
  console.log(`${twice()} chunks sent twice after ${KILLS} kills`)
  // What was lost is not always fetched again by the very next try, so all of it is counted at the end.
  expect(twice()).toBeLessThanOrEqual(MAX_TWICE_PER_KILL * KILLS)
  expect(pulled.id).toBe(id)
  expect(await readdir(join(fetcher.dataDir, 'templates'))).toEqual([id])
  expect(await fetcher.json('template', 'verify', '--no-repair')).toMatchObject({ ok: true })
})
