import { expect, test } from 'vitest'
import { client, count, nic, pattern, positive, rate, size } from '../../src/cli/options.ts'

test('a NIC with an address and forwards', () => {
  expect(nic('user,mac=52:54:00:AA:bb:01,forward=8080:80,forward=udp:53:5353', [{ forwards: [] }])).toEqual([
    { forwards: [] },
    {
      mac: '52:54:00:aa:bb:01',
      forwards: [
        { protocol: 'tcp', hostPort: 8080, guestPort: 80 },
        { protocol: 'udp', hostPort: 53, guestPort: 5353 },
      ],
    },
  ])
})

test('clients, one after the other', () => {
  const first = client('192.0.2.7:443', undefined)
  expect(client('shop.example:80=3', first)).toEqual([
    { host: '192.0.2.7', port: 443, weight: 1 },
    { host: 'shop.example', port: 80, weight: 3 },
  ])
})

test.each([
  ['client', () => client('192.0.2.7', undefined)],
  ['client', () => client('192.0.2.7:1', Array(16).fill({ host: 'a', port: 1, weight: 1 }))],
  ['nic', () => nic('tap', undefined)],
  ['nic', () => nic('user,forward=80', undefined)],
  ['nic', () => nic('user,forward=sctp:1:2', undefined)],
  ['nic', () => nic('user,ifname=x', undefined)],
  ['size', () => size('12 apples')],
  ['rate', () => rate('100')],
  ['positive', () => positive('-1')],
  ['positive', () => positive('NaN')],
  ['count', () => count('1.5')],
  ['count', () => count('0')],
  ['pattern', () => pattern('(')],
])('%s refuses what it is not', (_what, parse) => {
  expect(parse).toThrow(expect.objectContaining({ code: 'commander.invalidArgument' }))
})
