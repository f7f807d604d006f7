import { expect, test } from 'vitest'
import { canonicalIp } from '../../src/domain/address.ts'

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['0:0:0:0:0:0:0:1', '::1'],
  ['2001:DB8::0:7', '2001:db8::7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['::ffff:c000:207', '192.0.2.7'],
  ['fe80::1%eth0', null],
  ['192.0.2.007', null],
  ['192.0.2', null],
  ['shop.example', null],
  ['', null],
])('%j in its usual spelling is %j', (text, address) => {
  expect(canonicalIp(text)).toBe(address)
})
