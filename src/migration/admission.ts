import { MigrationError } from './errors.ts'

/**
 * QEMU promises that a newer version loads what an older one saved, not the
 * reverse. Stable releases of one minor version are compatible both ways.
 *
 * @param here - version of the QEMU that is to load a state, such as `7.2.22`
 * @param source - of the one that saves it
 */
export function loadsStateOf(here: string, source: string): boolean {
  const [hereMajor = 0, hereMinor = 0] = here.split('.').map(Number)
  const [sourceMajor = 0, sourceMinor = 0] = source.split('.').map(Number)
  return hereMajor > sourceMajor || (hereMajor === sourceMajor && hereMinor >= sourceMinor)
}

/** @throws MigrationError QEMU_TOO_OLD where `loadsStateOf` is false */
export function checkQemuVersion(here: string, source: string): void {
  if (loadsStateOf(here, source)) return
  throw new MigrationError('QEMU_TOO_OLD', `QEMU ${here} here is older than ${source} at the source`, {
    details: { qemuVersion: here, sourceQemuVersion: source },
  })
}
