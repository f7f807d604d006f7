import { expect, test } from 'vitest'
import type { MigrationReply } from '../../src/agent/api-schema.ts'
import { judge } from './fault-case.ts'

const ANYTHING = { owner: null, outcome: null, errorCode: null }

function report(outcome: string, code?: string): MigrationReply {
  return { outcome, error: code === undefined ? null : { code, message: '', details: {} } } as MigrationReply
}

test.each([
  ['completed', 'destination', []],
  ['failed', 'source', []],
  ['refused', 'source', []],
  ['completed', 'source', ['dishonest']],
  ['failed', 'destination', ['dishonest']],
  ['in-doubt', 'source', ['dishonest']],
  ['failed', 'nobody', []],
] as const)('%s with the VM at the %s: %j', (outcome, owner, kinds) => {
  const found = judge(ANYTHING, { report: report(outcome), owner, mayLackReport: false })
  expect(found.map(({ kind }) => kind)).toEqual(kinds)
})

test('a report may be missing only where its agent was killed', () => {
  const missing = { report: null, owner: 'source' } as const
  expect(judge(ANYTHING, { ...missing, mayLackReport: true })).toEqual([])
  expect(judge(ANYTHING, { ...missing, mayLackReport: false })).toMatchObject([{ kind: 'dishonest' }])
})

test('owner, outcome and code are compared where they are fixed', () => {
  const expected = { owner: 'source', outcome: 'refused', errorCode: 'NOT_ENOUGH_MEMORY' } as const
  const fits = {
    report: report('refused', 'NOT_ENOUGH_MEMORY'),
    owner: 'source',
    mayLackReport: false,
  } as const
  expect(judge(expected, fits)).toEqual([])
  const other = { report: report('failed', 'PEER_LOST'), owner: 'source', mayLackReport: false } as const
  expect(judge(expected, other)).toHaveLength(2)
  const moved = { report: report('completed'), owner: 'destination', mayLackReport: false } as const
  expect(judge(expected, moved)).toHaveLength(3)
})

test('a mistake of drover itself is never expected', () => {
  const found = judge(ANYTHING, {
    report: report('completed', 'INTERNAL'),
    owner: 'destination',
    mayLackReport: false,
  })
  expect(found).toMatchObject([{ kind: 'unexpected' }])
})
