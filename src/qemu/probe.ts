import { execFile } from 'node:child_process'
import { access, constants } from 'node:fs/promises'
import { promisify } from 'node:util'
import type { Accelerator } from '../domain/template.ts'
import { QemuError } from './errors.ts'
import { tryAccelerator } from './kvm-probe.ts'
import { asUser, mayUse, type QemuUser } from './user.ts'
import { isAtLeast, versionPair } from './version.ts'

const execute = promisify(execFile)

/** Both calls take 20 ms on an idle machine. */
const QUERY_TIMEOUT_MS = 10_000
const OLDEST_VERSION = [7, 2] as const

const VERSION = /^QEMU emulator version (\d+)\.(\d+)\.(\d+)/
/** Lines of `-machine help`: name, description, and for the alias `q35` what it stands for. */
const Q35_TYPE = /^(pc-q35-\S+)\s/gm
const Q35_ALIAS = /^q35\s.*\(alias of (pc-q35-[^)]+)\)/m
const PLAIN_Q35 = /^pc-q35-(\d+)\.(\d+)$/

/** A QEMU and what it can do on this machine. */
export interface QemuBinary {
  path: string
  /** Such as `7.2.22`. */
  version: string
  /** Versioned q35 types that it knows. */
  machineTypes: readonly string[]
  /** The type for new templates: what the alias `q35` stands for. */
  defaultMachineType: string
  accelerator: Accelerator
  /** Why KVM isn't used, for people; null where it is, or was not asked for. */
  acceleratorReason: string | null
  /** Whom it runs as, and was probed as; absent or null: the agent's own user. */
  user?: QemuUser | null
}

export interface ProbeOptions {
  accelerator: 'auto' | 'kvm' | 'tcg'
  user?: QemuUser | null
  signal?: AbortSignal | undefined
}

/**
 * Finds out what a QEMU binary can do, by letting it run guest code.
 *
 * @param path - a file, or a name to look up in PATH
 * @param options.accelerator - `auto`: KVM where guest code runs under it, otherwise TCG
 * @param options.user - whom all QEMUs of this binary are to run as, this probe's too; default: the agent's user
 * @throws QemuError QEMU_NOT_FOUND, QEMU_NOT_USABLE, KVM_NOT_USABLE (only when KVM is demanded)
 */
export async function probeQemu(
  path: string,
  { accelerator, user = null, signal }: ProbeOptions,
): Promise<QemuBinary> {
  const [versionText, machinesText] = await Promise.all([
    query(path, ['--version'], user, signal),
    query(path, ['-machine', 'help'], user, signal),
  ])
  const version = parseVersion(path, versionText)
  const machineTypes = [...machinesText.matchAll(Q35_TYPE)].map((match) => match[1]!)
  const defaultMachineType = chooseMachineType(machinesText, machineTypes, version)
  if (defaultMachineType === null) {
    throw new QemuError('QEMU_NOT_USABLE', `${path} has no q35 machine: drover needs qemu-system-x86_64`)
  }
  const known = { path, version, machineTypes, defaultMachineType, user }

  const kvmReason = accelerator === 'tcg' ? null : await whyNotKvm(path, defaultMachineType, user, signal)
  if (accelerator !== 'tcg' && kvmReason === null)
    return { ...known, accelerator: 'kvm', acceleratorReason: null }
  if (accelerator === 'kvm') {
    throw new QemuError('KVM_NOT_USABLE', `KVM can't be used: ${kvmReason}`, {
      details: { path, reason: kvmReason },
    })
  }
  const tcgReason = await tryAccelerator(path, {
    accelerator: 'tcg',
    machineType: defaultMachineType,
    user,
    signal,
  })
  if (tcgReason !== null) {
    throw new QemuError('QEMU_NOT_USABLE', `${path} runs no guest: ${tcgReason}`, {
      details: { path, reason: tcgReason },
    })
  }
  return { ...known, accelerator: 'tcg', acceleratorReason: kvmReason }
}

/** Output of a QEMU that only tells about itself. */
async function query(
  path: string,
  args: string[],
  user: QemuUser | null,
  signal: AbortSignal | undefined,
): Promise<string> {
  try {
    const { stdout } = await execute(path, args, {
      timeout: QUERY_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      signal,
      ...asUser(user),
    })
    return stdout
  } catch (cause) {
    signal?.throwIfAborted()
    const { code, stderr, message } = cause as NodeJS.ErrnoException & { stderr?: string }
    if (code === 'ENOENT') {
      throw new QemuError('QEMU_NOT_FOUND', `no QEMU at ${path}: install qemu-system-x86`, {
        cause,
        details: { path },
      })
    }
    const reason = stderr?.trim() || message
    throw new QemuError('QEMU_NOT_USABLE', `${path} does not run: ${reason}`, {
      cause,
      details: { path, reason },
    })
  }
}

function parseVersion(path: string, text: string): string {
  const match = VERSION.exec(text)
  if (match === null) {
    throw new QemuError('QEMU_NOT_USABLE', `${path} is not a QEMU system emulator`, { details: { path } })
  }
  const [major, minor, micro] = match.slice(1).map(Number) as [number, number, number]
  if (!isAtLeast([major, minor], OLDEST_VERSION)) {
    const reason = `version ${major}.${minor}.${micro} is older than ${OLDEST_VERSION.join('.')}`
    throw new QemuError('QEMU_NOT_USABLE', `${path}: ${reason}`, { details: { path, reason } })
  }
  return `${major}.${minor}.${micro}`
}

/**
 * What `q35` stands for. Some distributions let it stand for a type that only
 * their own QEMU has; then the newest upstream type up to this version, so that
 * other nodes know it too.
 */
export function chooseMachineType(
  helpText: string,
  machineTypes: readonly string[],
  version: string,
): string | null {
  const alias = Q35_ALIAS.exec(helpText)?.[1]
  if (alias !== undefined && PLAIN_Q35.test(alias)) return alias
  const [major, minor] = versionPair(version)
  const rank = (type: string) => {
    const match = PLAIN_Q35.exec(type)
    return match === null ? Number.POSITIVE_INFINITY : Number(match[1]) * 1000 + Number(match[2])
  }
  const usable = machineTypes.filter((type) => rank(type) <= major * 1000 + minor)
  return usable.toSorted((a, b) => rank(b) - rank(a))[0] ?? null
}

async function whyNotKvm(
  path: string,
  machineType: string,
  user: QemuUser | null,
  signal: AbortSignal | undefined,
): Promise<string | null> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return 'this machine has no /dev/kvm'
    return `no permission for /dev/kvm (${code}): add the user that runs drover to the group kvm`
  }
  if (user !== null && !((await mayUse(user, '-r', '/dev/kvm')) && (await mayUse(user, '-w', '/dev/kvm')))) {
    return `user ${user.name} has no permission for /dev/kvm: let the group of /dev/kvm be its primary group, the only one that QEMU has`
  }
  return tryAccelerator(path, { accelerator: 'kvm', machineType, user, signal })
}
