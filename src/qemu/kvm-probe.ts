/**
 * Firmware that finds out whether an accelerator really executes guest code.
 *
 * /dev/kvm may open and create VMs on a machine where they are of no use: a
 * host that lacks the processor's virtualisation emulates each 64-bit
 * instruction, some thousand times slower than TCG, and a kernel never comes
 * up. So this enters 64-bit mode as a kernel does, counts down, and reports
 * over the isa-debug-exit device. Tried: 20 ms of counting where KVM works,
 * 200 ms under TCG, minutes where it is emulated.
 */
import { execFile } from 'node:child_process'
import { chown, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { asUser, type QemuUser } from './user.ts'

const execute = promisify(execFile)

const KVM_ROUNDS = 50_000_000
/** TCG needs no measuring, only a sign that QEMU runs at all. */
const TCG_ROUNDS = 1000
const PROBE_TIMEOUT_MS = 3000

/** isa-debug-exit ends QEMU with the status `value << 1 | 1`; QEMU's own failures are 1. */
const REPORTED_VALUE = 0x3c
const REPORTED_STATUS = (REPORTED_VALUE << 1) | 1
const FIRMWARE_BYTES = 64 * 1024
/** Where the processor starts: the last 16 bytes of the firmware, mapped below 1 MiB too. */
const RESET_VECTOR = 0xfff0

function firmware(rounds: number): Buffer {
  const count = Buffer.alloc(4)
  count.writeUInt32LE(rounds)
  const program = [
    // 16-bit; page tables at 0x1000: the first 2 MiB, mapped to themselves
    '66 c7 06 0010 03200000', //   movl $0x2003, 0x1000        level 4 → 0x2000
    '66 c7 06 0020 03300000', //   movl $0x3003, 0x2000        level 3 → 0x3000
    '66 c7 06 0030 83000000', //   movl $0x83, 0x3000          level 2: a 2 MiB page
    '66 b8 20000000  0f22e0', //   mov $0x20, %eax             CR4 = PAE
    '66 b8 00100000  0f22d8', //   mov $0x1000, %eax           CR3
    '66 b9 800000c0  0f32', //     mov $0xc0000080, %ecx       EFER...
    '66 0d 00010000  0f30', //     or $0x100, %eax             ... |= LME
    '66 b8 11000080  0f22c0', //   mov $0x80000011, %eax       CR0 = PG | ET | PE
    '2e 66 0f 01 16 6500', //      lgdtl %cs:0x65
    '66 ea 55000f00 0800', //      ljmpl $8, $0xf0055
    // 0x55: 64-bit
    `b9 ${count.toString('hex')}`, // mov $rounds, %ecx
    'ff c9  75 fc', //             1: dec %ecx; jnz 1b
    'b0 3c  e6 f4', //             mov $0x3c, %al; out %al, $0xf4
    'f4  eb fd', //                2: hlt; jmp 2b
    // 0x65: GDT register, then the GDT: null, 64-bit code
    '0f00 6b000f00',
    '0000000000000000 00000000009a2000',
  ]
  const image = Buffer.alloc(FIRMWARE_BYTES)
  image.write(program.join('').replaceAll(' ', ''), 'hex')
  image.write('ea000000f0', RESET_VECTOR, 'hex') // ljmp $0xf000, $0
  return image
}

/**
 * Runs guest code under an accelerator, on a machine of the given type.
 *
 * @returns null when it works, otherwise why not, for people
 */
export async function tryAccelerator(
  qemuPath: string,
  {
    accelerator,
    machineType,
    user,
    signal,
  }: {
    accelerator: 'kvm' | 'tcg'
    machineType: string
    /** Whom QEMU runs as; null: the agent's user. */
    user: QemuUser | null
    signal?: AbortSignal | undefined
  },
): Promise<string | null> {
  const dir = await mkdtemp(join(tmpdir(), 'drover-probe-'))
  const path = join(dir, 'firmware')
  const args = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-m', '1M'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...['-machine', machineType, '-accel', accelerator, '-bios', path],
    ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=1'],
  ]
  try {
    await writeFile(path, firmware(accelerator === 'kvm' ? KVM_ROUNDS : TCG_ROUNDS))
    if (user !== null) await Promise.all([dir, path].map((each) => chown(each, user.uid, user.gid)))
    await execute(qemuPath, args, {
      timeout: PROBE_TIMEOUT_MS,
      killSignal: 'SIGKILL',
      signal,
      ...asUser(user),
    })
    return 'QEMU ended before the guest code reported'
  } catch (error) {
    signal?.throwIfAborted()
    const { code, killed, stderr, message } = error as Error & {
      code?: number
      killed?: boolean
      stderr?: string
    }
    if (code === REPORTED_STATUS) return null
    if (killed)
      return `guest code did not finish within ${PROBE_TIMEOUT_MS} ms: the processor's virtualisation is missing or emulated`
    return stderr?.trim().split('\n').at(-1) || message
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}
