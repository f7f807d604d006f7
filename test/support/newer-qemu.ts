import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** The QEMU of Debian's backports, unpacked beside the installed one; or why there is none. */
export async function newerQemu(): Promise<{ path: string; reason: null } | { path: null; reason: string }> {
  const script = join(import.meta.dirname, '../../scripts/qemu-backports')
  try {
    const { stdout } = await promisify(execFile)(script)
    return { path: stdout.trim(), reason: null }
  } catch (error) {
    return { path: null, reason: `no QEMU from backports: ${(error as { stderr?: string }).stderr?.trim()}` }
  }
}
