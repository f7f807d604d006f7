import { expect, test } from 'vitest'
import { count, nic, pattern, positive, rate, size } from '../../src/cli/options.ts'

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

test.each([
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
