import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { promisify } from 'node:util'
import { QemuError } from './errors.ts'

const execute = promisify(execFile)

/** An unprivileged user that QEMU runs as, started by an agent that is root. */
export interface QemuUser {
  name: string
  uid: number
  /** Its primary group: QEMU has no other. */
  gid: number
  /** The agent's directories with files for QEMU in them: the user is let through these and what lies below. */
  passages: readonly string[]
}

/**
 * Looks a user up, by the system's own means, and makes sure that QEMU can run
 * as it.
 *
 * @param passages - as in QemuUser; the way to them must be open to the user already, as it isn't the agent's to open
 * @throws QemuError QEMU_USER_NOT_USABLE
 */
export async function openQemuUser(name: string, passages: readonly string[]): Promise<QemuUser> {
  const refuse = (reason: string, cause?: unknown) =>
    new QemuError('QEMU_USER_NOT_USABLE', `QEMU can't run as user ${JSON.stringify(name)}: ${reason}`, {
      cause,
      details: { name, reason },
    })
  if (process.geteuid?.() !== 0) throw refuse('the agent is not root, and can start it as its own user alone')
  const id = async (flag: '-u' | '-g') => Number((await execute('id', [flag, '--', name])).stdout)
  let [uid, gid] = [0, 0]
  try {
    ;[uid, gid] = await Promise.all([id('-u'), id('-g')])
  } catch (cause) {
    throw refuse('there is no such user', cause)
  }
  if (uid === 0) throw refuse('it is root itself')
  const user = { name, uid, gid, passages }
  const isOurs = (dir: string) => passages.some((passage) => `${dir}/`.startsWith(`${passage}/`))
  for (const parent of new Set(passages.flatMap(parents))) {
    // One that isn't there yet is made by whoever starts the agent's work; it is looked at then.
    if (isOurs(parent) || !existsSync(parent)) continue
    if (!(await mayUse(user, '-x', parent))) {
      throw refuse(`it can't pass through ${parent}: \`chmod o+x ${parent}\`, or choose another directory`)
    }
  }
  return user
}

/** For Node's `spawn`: it drops all privileges and other groups before the program begins. */
export function asUser(user: QemuUser | null): { uid?: number; gid?: number; cwd: string } {
  const ids = user === null ? {} : { uid: user.uid, gid: user.gid }
  // Where the agent was started, the user may not go.
  return { ...ids, cwd: '/' }
}

/** As the kernel sees it, access lists included: a process of the user tries. */
export async function mayUse(user: QemuUser, access: '-x' | '-r' | '-w', path: string): Promise<boolean> {
  try {
    await execute('test', [access, path], asUser(user))
    return true
  } catch {
    return false
  }
}

/** Directories above a path, from the root on. */
function parents(path: string): string[] {
  const names = path.split('/').slice(1, -1)
  return ['/', ...names.map((_, index) => `/${names.slice(0, index + 1).join('/')}`)]
}
