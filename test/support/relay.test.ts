import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { Links } from './relay-control.ts'

const LATENCY_MS = 40
/** Many pieces: one after the other they would take a second and more. */
const MUCH_BYTES = 4 * 1024 ** 2

let links: Links
let door: number
const echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket))

beforeAll(async () => {
  echo.listen(0, '127.0.0.1')
  await once(echo, 'listening')
  door = await freePort()
  const host = '127.0.0.1'
  const target = { host, port: portOf(echo) }
  links = await Links.start([], [{ from: 'a', to: 'b', listen: { host, port: door }, target }])
})
afterAll(async () => {
  await links?.[Symbol.asyncDispose]()
  echo.close()
})
beforeEach(() => links.setBoth('a', 'b', { latencyMs: LATENCY_MS }))

test('a byte takes the latency there and back', async () => {
  const socket = await dial()
  const startedMs = performance.now()
  socket.write('x')
  await once(socket, 'data')
  expect(performance.now() - startedMs).toBeGreaterThanOrEqual(2 * LATENCY_MS)
  socket.destroy()
})

test('what follows is on its way at the same time, and arrives whole, in order, with its end', async () => {
  const socket = await dial()
  const sent = Buffer.from(Uint32Array.from({ length: MUCH_BYTES / 4 }, (_, i) => i).buffer)
  const startedMs = performance.now()
  socket.end(sent)
  const received = Buffer.concat(await socket.toArray())
  const tookMs = performance.now() - startedMs
  expect(received.equals(sent)).toBe(true)
  const pieces = MUCH_BYTES / 65_536
  expect(tookMs).toBeGreaterThanOrEqual(2 * LATENCY_MS)
  expect(tookMs).toBeLessThan((pieces * LATENCY_MS) / 2)
})

async function dial(): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port: door, allowHalfOpen: true })
  await once(socket, 'connect')
  return socket
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const port = portOf(server)
  server.close()
  await once(server, 'close')
  return port
}

function portOf(server: ReturnType<typeof createServer>): number {
  return (server.address() as { port: number }).port
}
