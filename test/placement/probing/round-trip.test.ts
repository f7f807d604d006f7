/** Probes over real TCP. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import {
  PROBE_TIMEOUT_MS,
  probeRttMs,
  SAMPLES,
  typicalMs,
} from '../../../src/placement/probing/round-trip.ts'

const never = new AbortController().signal
let server: Server | undefined
afterEach(() => server?.close())

async function listen(host: string): Promise<{ port: number; connections: () => number }> {
  let connections = 0
  // As a careless server: an error of a connection would end the process.
  server = createServer((socket) => {
    connections++
    socket.resume()
  })
  server.listen(0, host)
  await once(server, 'listening')
  return { port: (server.address() as AddressInfo).port, connections: () => connections }
}

test.each(['127.0.0.1', '::1'])(
  'a listener at %s is probed by a few connects, none of which stays',
  async (address) => {
    const { port, connections } = await listen(address)
    const rttMs = await probeRttMs({ address, port }, never)
    expect(rttMs).toBeGreaterThan(0)
    expect(rttMs).toBeLessThan(100)
    expect(connections()).toBe(SAMPLES)
    const open = () => new Promise((resolve) => server!.getConnections((_, count) => resolve(count)))
    await expect.poll(open).toBe(0)
  },
)

test('a refused connection is an answer', async () => {
  const { port } = await listen('127.0.0.1')
  server!.close()
  await once(server!, 'close')
  expect(await probeRttMs({ address: '127.0.0.1', port }, never)).toBeGreaterThan(0)
})

/** Prints its port; once it is stopped and its queue is full, the kernel drops what comes. */
const LISTENER = `require('net').createServer().listen({ host: '127.0.0.1', port: 0, backlog: 1 }, function () {
  console.log(this.address().port)
})`

test('a host that does not answer is not measured, in bounded time', async () => {
  using left = new DisposableStack()
  const listener = spawn(process.execPath, ['-e', LISTENER], { stdio: ['ignore', 'pipe', 'inherit'] })
  left.defer(() => void listener.kill('SIGKILL'))
  const [line] = (await once(listener.stdout, 'data')) as [Buffer]
  const port = Number(line.toString())
  listener.kill('SIGSTOP')
  for (let waiting = 0; waiting < 4; waiting++) {
    const socket = connect(port, '127.0.0.1').on('error', () => {})
    left.defer(() => void socket.destroy())
  }
  await sleep(200)
  const startMs = performance.now()
  expect(await probeRttMs({ address: '127.0.0.1', port }, never)).toBeNull()
  expect(performance.now() - startMs).toBeLessThan(PROBE_TIMEOUT_MS + 500)
})

test('a probe that is called off measures nothing', async () => {
  const { port } = await listen('127.0.0.1')
  expect(await probeRttMs({ address: '127.0.0.1', port }, AbortSignal.timeout(60))).toBeNull()
})

test.each([
  [[3], 3],
  [[3, 5], 4],
  [[10, 10.2, 10.1, 10.3, 250], 10.15],
  [[10, 10, 10, 10, 11], 10],
  // Two of five are no outliers where the other three differ as much.
  [[10, 14, 18, 22, 26], 18],
])('the typical one of %j ms is %d ms', (samplesMs, ms) => {
  expect(typicalMs(samplesMs)).toBeCloseTo(ms, 5)
})
