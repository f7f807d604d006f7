import { readFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { hostAvailableBytes, type VmService } from '../../vm/index.ts'
import type { MemorySample } from './pressure.ts'

/** Of this machine, now: two files of the kernel, and one for each VM. */
export function sampleMemory(vms: Pick<VmService, 'memory'>): MemorySample {
  const { limitBytes, committedBytes } = vms.memory()
  return {
    totalBytes: totalmem(),
    availableBytes: hostAvailableBytes(),
    limitBytes,
    committedBytes,
    stallPercent: readStallPercent(),
  }
}

/** Null where the kernel doesn't tell: without CONFIG_PSI, or with `psi=0`. */
function readStallPercent(): number | null {
  try {
    return parseStallPercent(readFileSync('/proc/pressure/memory', 'utf8'))
  } catch {
    return null
  }
}

/** `full avg10=0.00 avg60=0.00 avg300=0.00 total=0` of /proc/pressure/memory. */
export function parseStallPercent(text: string): number | null {
  const [, percent] = /^full avg10=(\d+(?:\.\d+)?) /m.exec(text) ?? []
  return percent === undefined ? null : Number(percent)
}
