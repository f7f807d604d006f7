import { multiaddr } from '@multiformats/multiaddr'
import { expect, test } from 'vitest'
import { advertised, dialableAddress } from '../../src/mesh/address.ts'

const PEER = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'
const OTHER = '12D3KooWJWoaqZhDaoEFshF7Rh1bpY9ohihFhzcW6d69Lr2NASuq'

test.for([
  [`/ip4/192.0.2.1/tcp/4001/p2p/${PEER}`, `/ip4/192.0.2.1/tcp/4001/p2p/${PEER}`],
  ['/ip4/192.0.2.1/tcp/4001', `/ip4/192.0.2.1/tcp/4001/p2p/${PEER}`],
  ['/ip6/2001:db8::1/tcp/4001', `/ip6/2001:db8::1/tcp/4001/p2p/${PEER}`],
])('%s can be dialled', ([text, full]) => {
  expect(String(dialableAddress(text!, PEER)?.address)).toBe(full)
})

test.for([
  '',
  'hello',
  '/ip4/192.0.2.1',
  '/ip4/192.0.2.300/tcp/1',
  '/ip4/192.0.2.1/tcp/0',
  '/ip4/192.0.2.1/tcp/70000',
  '/ip4/192.0.2.1/udp/1/quic-v1',
  '/ip4/192.0.2.1/tcp/1/ws',
  `/ip4/192.0.2.1/tcp/1/p2p/${OTHER}`,
  `/ip4/192.0.2.1/tcp/1/p2p/${OTHER}/p2p-circuit/p2p/${PEER}`,
  '/dns4/example.org/tcp/1',
  '/unix/tmp/x',
])('%s can not', (text) => {
  expect(dialableAddress(text, PEER)).toBeNull()
})

test('loopback is told to others only where there is nothing else', () => {
  const loopback = ['/ip4/127.0.0.1/tcp/1', '/ip6/::1/tcp/1'].map((text) => multiaddr(text))
  const real = multiaddr('/ip4/192.0.2.1/tcp/1')
  expect(advertised([...loopback, real]).map(String)).toEqual(['/ip4/192.0.2.1/tcp/1'])
  expect(advertised(loopback)).toHaveLength(2)
})
