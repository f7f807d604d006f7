import { expect, test } from 'vitest'
import { planProbes } from '../../../src/placement/probing/round.ts'

test('a VM none of whose clients was found has its round, in which nobody is asked for it', () => {
  const target = { address: '192.0.2.1', port: 443 }
  const gone = { vm: 'gone', targets: [null], ask: ['a', 'b'] }
  const found = { vm: 'found', targets: [null, target], ask: ['a'] }
  expect(planProbes([gone, found])).toEqual({
    vms: [gone, found],
    own: [target],
    asked: new Map([['a', [target]]]),
  })
})
