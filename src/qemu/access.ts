/**
 * What the user that QEMU runs as may reach: the files of one launch, and the
 * way to them. Done at each start, so that templates and VMs from before the
 * user was chosen, and from before another one was, are of use.
 *
 *     data directory            drwx--x--- root qemu     passage: no list, no names
 *       templates               drwx--x--- root qemu
 *         <id>                  drwx--x--- root qemu
 *           kernel  initrd      -r--r--r-- root root     sealed: readable as it is
 *           ram                 -r--r--r-- root root     QEMU from 8.2 on
 *                               -r--rw-r-- root qemu     before: it opens a private mapping's file for writing
 *       vms/<id>/overlay.qcow2  -rw-rw---- root qemu
 *       db, keys                as ever: 0600 and 0700
 */
import { chmod, chown, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { opensRamReadOnly, type QemuLaunch } from './launch.ts'
import type { QemuBinary } from './probe.ts'
import type { QemuUser } from './user.ts'

const READ = 4
const WRITE = 2
const PASS = 1

/** Lets the user reach what this launch needs; its run directory has an owner of its own. */
export async function grantLaunch(binary: QemuBinary, launch: QemuLaunch, user: QemuUser): Promise<void> {
  const { ram, kernelPath, initrdPath, disk } = launch
  const files: [path: string | null | undefined, writes: boolean][] = [
    [ram.path, !opensRamReadOnly(binary, launch)],
    [kernelPath, false],
    [initrdPath, false],
    [disk?.basePath, disk?.overlayPath === null],
    [disk?.overlayPath, true],
  ]
  await openWay(launch.runDir, user)
  for (const [path, writes] of files) {
    if (path === null || path === undefined) continue
    await openWay(path, user)
    await grantFile(path, writes ? READ | WRITE : READ, user)
  }
}

/** Opens the directories above `path` that are the agent's own. */
async function openWay(path: string, user: QemuUser): Promise<void> {
  const [top] = user.passages
    .filter((passage) => path.startsWith(`${passage}/`))
    .toSorted((a, b) => a.length - b.length)
  if (top === undefined) return
  for (let dir = dirname(path); dir.length >= top.length; dir = dirname(dir)) {
    const { mode, gid } = await stat(dir)
    if ((rightsOf(user, { mode, gid }) & PASS) !== 0) continue
    // A group that is of use to somebody keeps its rights: then everybody may pass, who still can't list.
    if (gid !== user.gid && (mode & 0o070) !== 0) {
      await chmod(dir, (mode & 0o777) | PASS)
      continue
    }
    await chown(dir, -1, user.gid)
    await chmod(dir, (mode & 0o777) | (PASS << 3))
  }
}

/** Exactly the rights that are needed, by the user's group. A file that everybody may use so is left as it is. */
async function grantFile(path: string, needed: number, user: QemuUser): Promise<void> {
  const { mode, gid } = await stat(path)
  const rights = rightsOf(user, { mode, gid })
  if (rights === needed || (gid !== user.gid && (rights & needed) === needed)) return
  await chown(path, -1, user.gid)
  await chmod(path, (mode & 0o707) | (needed << 3))
}

/** The files are the agent's, so the user has the rights of their group or of everybody. */
function rightsOf(user: QemuUser, { mode, gid }: { mode: number; gid: number }): number {
  return (gid === user.gid ? mode >> 3 : mode) & 7
}
