import { randomUUID } from 'node:crypto'
import type { Doubt } from '../../src/domain/vm.ts'

/** A doubt about a move to `destination`, as a departing VM is given it. */
export function doubtAbout(destination: string): Omit<Doubt, 'migrationId'> {
  return { destination, place: randomUUID(), digest: '00'.repeat(32) }
}
