import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { expect, test } from 'vitest'
import {
  type Connection,
  parseConnections,
  readConnections,
} from '../../../src/placement/probing/connections.ts'
import { LearnedClients } from '../../../src/placement/probing/learned-clients.ts'

const TABLE = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1061 1 0 100 0 0 10 0
   1: 0100007F:1F90 070200C0:B1EA 01 00000000:00000000 03:0000112F 00000000     0        0 0 3 0
   2: 0100007F:1F90 080200C0:B1EA 06 00000000:00000000 03:0000112F 00000000     0        0 0 3 0
   3: 00000000000000000000000001000000:1F91 B80D0120000000000000000007000000:B1EA 01 00000000:00000000 00:00000000 0
   4: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF0000070200C0:B1EA 01 00000000:00000000 00:00000000 0
 no line of it
`

test('a table of the kernel is read: what is established, whatever its spelling', () => {
  expect(parseConnections(TABLE)).toEqual([
    { localPort: 8080, remoteAddress: '192.0.2.7' },
    { localPort: 8081, remoteAddress: '2001:db8::7' },
    { localPort: 8080, remoteAddress: '192.0.2.7' },
  ])
  expect(parseConnections('')).toEqual([])
})

test.each(['127.0.0.1', '::1'])('a real connection over %s is among those of this machine', async (host) => {
  const server = createServer().listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const socket = connect(port, host)
  try {
    await once(socket, 'connect')
    expect(await readConnections()).toContainEqual({ localPort: port, remoteAddress: host })
  } finally {
    socket.destroy()
    server.close()
  }
})

const VM = { id: 'vm', hostPorts: [8080] }

function lab() {
  const state = { nowMs: 0, connections: [] as Connection[], looks: 0 }
  const learned = new LearnedClients({
    now: () => state.nowMs,
    connections: async () => {
      state.looks++
      return state.connections
    },
  })
  const from = (...hosts: number[]) => {
    state.connections = hosts.map((host) => ({ localPort: 8080, remoteAddress: `192.0.2.${host}` }))
  }
  const weights = () => Object.fromEntries(learned.of('vm').map(({ host, weight }) => [host, weight]))
  return { state, learned, from, weights }
}

test('clients are those connected to the ports of the VM, and weigh as many connections as they have', async () => {
  const { state, learned } = lab()
  state.connections = [
    { localPort: 8080, remoteAddress: '192.0.2.1' },
    { localPort: 8080, remoteAddress: '192.0.2.1' },
    { localPort: 8080, remoteAddress: '2001:db8::7' },
    { localPort: 8080, remoteAddress: '127.0.0.1' },
    { localPort: 22, remoteAddress: '192.0.2.9' },
  ]
  await learned.look([VM])
  expect(learned.of('vm')).toEqual([
    { host: '192.0.2.1', port: 443, weight: 2 },
    { host: '2001:db8::7', port: 443, weight: 1 },
  ])
})

test('who has left fades, and is forgotten', async () => {
  const { state, learned, from, weights } = lab()
  from(1, 1, 1, 1)
  await learned.look([VM])
  from()
  state.nowMs = 60_000
  await learned.look([VM])
  expect(weights()).toEqual({ '192.0.2.1': 2 })
  from(2)
  state.nowMs = 300_000
  await learned.look([VM])
  expect(weights()).toEqual({ '192.0.2.1': 1, '192.0.2.2': 1 })
  from()
  state.nowMs = 480_000
  await learned.look([VM])
  expect(weights()).toEqual({ '192.0.2.2': 1 })
})

test('of more than sixteen, those are kept that were seen last', async () => {
  const { state, learned, from, weights } = lab()
  from(...Array.from({ length: 16 }, (_, host) => host + 1))
  await learned.look([VM])
  from(100, 101)
  state.nowMs = 5_000
  await learned.look([VM])
  expect(Object.keys(weights())).toHaveLength(16)
  expect(weights()).toMatchObject({ '192.0.2.100': 1, '192.0.2.101': 1 })
})

test('the kernel is asked every five seconds, and for VMs with ports only; a VM that went is forgotten', async () => {
  const { state, learned, from, weights } = lab()
  from(1)
  await learned.look([{ id: 'other', hostPorts: [] }])
  expect(state.looks).toBe(0)
  await learned.look([VM])
  state.nowMs = 4_999
  await learned.look([VM])
  expect(state.looks).toBe(1)
  await learned.look([])
  expect(weights()).toEqual({})
})
