import { expect, test } from 'vitest'
import { PEER_ACTIONS, Policy } from '../../src/domain/policy.ts'

test('every member may do what nothing is said about', () => {
  const policy = new Policy({ fetch: [] }, { node: 'edge-1' })
  expect(PEER_ACTIONS.map((action) => policy.permits(action, 'anybody'))).toEqual([true, false, true])
})

test('who is not listed is refused, with the setting and the node that says so', () => {
  const policy = new Policy({ send: ['friend'] }, { node: 'edge-1' })
  expect(() => policy.requirePermitted('send', 'friend')).not.toThrow()
  expect(() => policy.requirePermitted('send', 'stranger')).toThrow(
    expect.objectContaining({
      code: 'NOT_PERMITTED',
      outcome: 'refused',
      message: expect.stringMatching(/edge-1.*`allow\.send`/),
      details: { action: 'send', peer: 'stranger' },
    }),
  )
})
