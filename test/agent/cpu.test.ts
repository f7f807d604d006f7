import { expect, test } from 'vitest'
import { parseCpu, readCpu } from '../../src/agent/cpu.ts'

const V2 = 'lm cmov cx8 fpu fxsr mmx syscall sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3'
const V3 = `${V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave`
const V4 = `${V3} avx512f avx512bw avx512cd avx512dq avx512vl`

const cpuinfo = (vendor: string, flags: string) =>
  `processor\t: 0\nvendor_id\t: ${vendor}\nmodel name\t: x\nflags\t\t: ${flags}\nvmx flags\t: vnmi avx512f\n\nprocessor\t: 1\n`

test.for([
  ['lm cmov cx8 fpu fxsr mmx syscall sse2', 'x86-64-v1'],
  [V2, 'x86-64-v2'],
  [V3, 'x86-64-v3'],
  [V4, 'x86-64-v4'],
  [V3.replace('movbe', ''), 'x86-64-v2'],
  [V4.replace(' abm', ''), 'x86-64-v2'],
  ['', 'x86-64-v1'],
])('a CPU with %s is %s', ([flags, level]) => {
  expect(parseCpu(cpuinfo('AuthenticAMD', flags!))).toEqual({ cpuVendor: 'AuthenticAMD', cpuLevel: level })
})

test('a vendor that can not be told to others is unknown', () => {
  expect(parseCpu(cpuinfo('', V2)).cpuVendor).toBe('unknown')
  expect(parseCpu('').cpuVendor).toBe('unknown')
})

test('this machine has a CPU', () => {
  expect(readCpu().cpuVendor).not.toBe('unknown')
})
