import type { Outcome } from '../domain/errors.ts'
import type { MigrationOutcome } from '../domain/migration.ts'

export type ExitCode = 0 | 1 | 2 | 3 | 4 | 130

export const EXIT_CODES: Readonly<Record<Outcome | 'completed', ExitCode>> = {
  completed: 0,
  failed: 1,
  usage: 2,
  refused: 3,
  'in-doubt': 4,
  cancelled: 130,
}

/** What a person must look at first comes first. */
const WORST_FIRST: readonly MigrationOutcome[] = ['in-doubt', 'failed', 'refused', 'cancelled', 'completed']

/** The one exit code of several moves: that of the worst. */
export function worstExitCode(outcomes: readonly MigrationOutcome[]): ExitCode {
  return EXIT_CODES[WORST_FIRST.find((outcome) => outcomes.includes(outcome)) ?? 'completed']
}
