import { expect, test } from 'vitest'
import { worstExitCode } from '../../src/cli/exit-code.ts'
import type { MigrationOutcome } from '../../src/domain/migration.ts'

test.each<[MigrationOutcome[], number]>([
  [[], 0],
  [['completed', 'completed'], 0],
  [['completed', 'cancelled'], 130],
  [['cancelled', 'refused', 'completed'], 3],
  [['refused', 'failed'], 1],
  [['failed', 'in-doubt', 'completed'], 4],
])('moves that ended as %j exit with %d', (outcomes, code) => {
  expect(worstExitCode(outcomes)).toBe(code)
})
