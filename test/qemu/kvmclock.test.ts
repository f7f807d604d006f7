import { expect, test } from 'vitest'
import { advanceKvmclock } from '../../src/qemu/index.ts'

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
const u64 = (value: bigint) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(value)
  return bytes
}

const HEADER = [Buffer.from('QEVM'), u32(3)]
const RELIABLE_NAME = Buffer.from('kvmclock/clock_is_reliable')
const RELIABLE = [Buffer.from([5, RELIABLE_NAME.length]), RELIABLE_NAME, u32(1), Buffer.from([1])]

/** A kvmclock section as QEMU writes it, at a place that no alignment helps to find. */
function section({ id = 3, footerId = 3, version = 1, subsection = RELIABLE, clock = 1000n } = {}): Buffer {
  return Buffer.concat([
    Buffer.from([4]),
    u32(id),
    Buffer.from('\x08kvmclock'),
    u32(0),
    u32(version),
    u64(clock),
    ...subsection,
    Buffer.from([0x7e]),
    u32(footerId),
  ])
}

const state = (...parts: Buffer[]) =>
  Buffer.concat([...HEADER, Buffer.from('xyz'), ...parts, Buffer.from([0])])

test.each([
  ['with its subsection', RELIABLE],
  ['without', []],
])('moves the clock on, %s', (_, subsection) => {
  const before = state(section({ subsection, clock: 1000n }))
  expect(advanceKvmclock(before, 234n)).toEqual(state(section({ subsection, clock: 1234n })))
})

test('a clock near its end wraps, as a be64 does', () => {
  const before = state(section({ clock: 2n ** 64n - 1n }))
  expect(advanceKvmclock(before, 2n)).toEqual(state(section({ clock: 1n })))
})

test('works on a view of a larger buffer', () => {
  const outer = Buffer.concat([Buffer.from('outer'), state(section())])
  advanceKvmclock(outer.subarray(5), 1n)
  expect(outer.subarray(5)).toEqual(state(section({ clock: 1001n })))
})

test.each([
  ['no section', state(Buffer.from('\x08kvmcloc'))],
  ['a footer of another section', state(section({ footerId: 4 }))],
  ['another version', state(section({ version: 2 }))],
  ['the end of the file in its middle', state(section().subarray(0, 24))],
  ['the name alone', state(Buffer.from('\x08kvmclock'))],
])('leaves alone what only looks like it: %s', (_, bytes) => {
  expect(advanceKvmclock(Buffer.from(bytes), 1n)).toEqual(bytes)
})

test('a look-alike before the section does not hide it', () => {
  const decoy = section({ footerId: 9 })
  expect(advanceKvmclock(state(decoy, section()), 1n)).toEqual(state(decoy, section({ clock: 1001n })))
})
