import { readFileSync } from 'node:fs'
import type { CpuLevel } from '../domain/node.ts'

/**
 * What each level of the x86-64 psABI asks for, above the one before it, in
 * the words of /proc/cpuinfo: SSE3 is `pni` there, LZCNT is `abm`.
 */
const LEVELS: readonly (readonly [CpuLevel, readonly string[]])[] = [
  ['x86-64-v2', ['cx16', 'lahf_lm', 'popcnt', 'pni', 'sse4_1', 'sse4_2', 'ssse3']],
  ['x86-64-v3', ['avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'abm', 'movbe', 'xsave']],
  ['x86-64-v4', ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl']],
]

export interface CpuFacts {
  cpuVendor: string
  cpuLevel: CpuLevel
}

/** This machine's CPU, by the first of them: they are all alike. */
export function readCpu(): CpuFacts {
  return parseCpu(readFileSync('/proc/cpuinfo', 'utf8'))
}

/** @param text - of /proc/cpuinfo */
export function parseCpu(text: string): CpuFacts {
  const field = (name: string) => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1]?.trim() ?? ''
  const flags = new Set(field('flags').split(' '))
  let cpuLevel: CpuLevel = 'x86-64-v1'
  for (const [level, needed] of LEVELS) {
    if (!needed.every((flag) => flags.has(flag))) break
    cpuLevel = level
  }
  const vendor = field('vendor_id')
  return { cpuVendor: /^[ -~]{1,16}$/.test(vendor) ? vendor : 'unknown', cpuLevel }
}
