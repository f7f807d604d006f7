import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { DroverError } from '../../domain/errors.ts'
import { probeQemu, type QemuUser } from '../../qemu/index.ts'
import type { DoctorCheck } from '../api-schema.ts'
import type { AgentConfig } from '../config.ts'
import { qemuUserCheck } from './qemu-user.ts'

const run = promisify(execFile)
const VERSION_TIMEOUT_MS = 5_000

export function nodeCheck(): DoctorCheck {
  // The launcher has refused everything older already.
  return { check: 'node', ok: true, required: true, detail: `Node.js ${process.version}`, remedy: null }
}

/** The user of QEMU, QEMU itself and what executes its guests: the same steps as at the agent's start. */
export async function qemuChecks(config: AgentConfig, signal: AbortSignal): Promise<DoctorCheck[]> {
  const { check, user } = await qemuUserCheck(config)
  return [check, ...(await binaryChecks(config, user, signal))]
}

async function binaryChecks(
  config: AgentConfig,
  user: QemuUser | null,
  signal: AbortSignal,
): Promise<DoctorCheck[]> {
  try {
    const binary = await probeQemu(config.qemuPath, { accelerator: config.accelerator, user, signal })
    const fast = binary.accelerator === 'kvm'
    return [
      {
        check: 'qemu',
        ok: true,
        required: true,
        detail: `QEMU ${binary.version}, ${binary.path}`,
        remedy: null,
      },
      {
        check: 'accelerator',
        ok: fast || config.accelerator === 'tcg',
        required: false,
        detail: fast
          ? 'KVM runs guests'
          : `TCG (guests run some ten times slower): ${binary.acceleratorReason ?? 'asked for'}`,
        remedy:
          fast || config.accelerator === 'tcg'
            ? null
            : 'enable virtualization in the firmware or the outer hypervisor, load kvm_intel or kvm_amd, and give the agent access to /dev/kvm',
      },
    ]
  } catch (error) {
    if (!(error instanceof DroverError)) throw error
    return [
      {
        check: 'qemu',
        ok: false,
        required: true,
        detail: error.message,
        remedy:
          'install qemu-system-x86 7.2 or newer (Debian: apt install qemu-system-x86), or point --qemu at it',
      },
    ]
  }
}

/** Makes the overlays of VMs whose template has a disk. */
export async function qemuImgCheck(signal: AbortSignal): Promise<DoctorCheck> {
  try {
    const { stdout } = await run('qemu-img', ['--version'], { timeout: VERSION_TIMEOUT_MS, signal })
    return { check: 'qemu-img', ok: true, required: false, detail: stdout.split('\n')[0] ?? '', remedy: null }
  } catch (error) {
    return {
      check: 'qemu-img',
      ok: false,
      required: false,
      detail: `qemu-img can't be run: ${(error as Error).message.split('\n')[0]}`,
      remedy: 'templates with a disk need it: install qemu-utils',
    }
  }
}
