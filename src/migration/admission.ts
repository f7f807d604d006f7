import { MigrationError } from './errors.ts'

/**
 * QEMU promises that a newer version loads what an older one saved, not the
 * reverse. Stable releases of one minor version are compatible both ways.
 *
 * @param here - version of the QEMU of this node, such as `7.2.22`
 * @throws MigrationError QEMU_TOO_OLD
 */
export function checkQemuVersion(here: string, source: string): void {
  const [hereMajor = 0, hereMinor = 0] = here.split('.').map(Number)
  const [sourceMajor = 0, sourceMinor = 0] = source.split('.').map(Number)
  if (hereMajor > sourceMajor || (hereMajor === sourceMajor && hereMinor >= sourceMinor)) return
  throw new MigrationError('QEMU_TOO_OLD', `QEMU ${here} here is older than ${source} at the source`, {
    details: { qemuVersion: here, sourceQemuVersion: source },
  })
}
