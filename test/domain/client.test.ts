import { expect, test } from 'vitest'
import { formatClient, isClientHost, parseClient, type VmClient } from '../../src/domain/client.ts'

test.each<[string, VmClient]>([
  ['192.0.2.7:443', { host: '192.0.2.7', port: 443, weight: 1 }],
  ['192.0.2.7:443=3', { host: '192.0.2.7', port: 443, weight: 3 }],
  ['[2001:DB8::7]:443', { host: '2001:db8::7', port: 443, weight: 1 }],
  ['Shop.Example:80=1000', { host: 'shop.example', port: 80, weight: 1000 }],
  ['localhost:1', { host: 'localhost', port: 1, weight: 1 }],
])('%s is a client, and reads so when it is shown', (text, client) => {
  expect(parseClient(text)).toEqual(client)
  expect(parseClient(formatClient(client))).toEqual(client)
})

test.each([
  '',
  'shop.example',
  'shop.example:',
  'shop.example:0',
  'shop.example:65536',
  'shop.example:80=0',
  'shop.example:80=1001',
  'shop.example:80=0.5',
  '2001:db8::7:443',
  '[192.0.2.7]:443',
  '[fe80::1%eth0]:443',
  '192.0.2:443',
  '192.0.2.256:443',
  '-a.example:1',
  'a..example:1',
  'a b:1',
  '$(reboot):1',
  `${'a'.repeat(64)}.example:1`,
])('%j is none', (text) => {
  expect(parseClient(text)).toBeNull()
})

test('a host has at most 253 characters', () => {
  const label = 'a'.repeat(49)
  const longest = `${Array.from({ length: 5 }, () => label).join('.')}.abc`
  expect(isClientHost(longest)).toBe(true)
  expect(isClientHost(`${longest}d`)).toBe(false)
})
