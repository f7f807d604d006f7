import { expect, test } from 'vitest'
import { deriveStateFile, readStateFile } from '../../src/qemu/index.ts'

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')

/** A pc-q35-7.2 with one ROM of one page, RAM of 512 MiB that is a shared file. */
const UP_TO_RAM = Buffer.concat([
  hex('5145564d 00000003 07 0000000a'),
  Buffer.from('pc-q35-7.2'),
  hex('05 1a'),
  Buffer.from('configuration/capabilities'),
  hex('00000001 00000001 0f'),
  Buffer.from('x-ignore-shared'),
  hex('01 00000003 03 72616d 00000000 00000004'),
  hex('0000000020001004'),
  hex('04 72616d30 0000000020000000 0000000000000000'),
  hex('06 70632e726f6d 0000000000001000 00000000000c0000'),
  hex('0000000000000010 7e 00000003'),
  hex('03 00000003 0000000000000008 06 70632e726f6d'),
  Buffer.alloc(4096, 0xf4),
  hex('0000000000000010 7e 00000003'),
])
const PARENT = Buffer.concat([UP_TO_RAM, hex('04 00000004 05 74696d6572 11 7e 00000004 00 06 00000002 7b7d')])
const DEVICES = hex('04 00000009 05 74696d6572 22 33 7e 00000009 00')
const SAVED = Buffer.concat([hex('5145564d 00000003'), DEVICES])

test("the parent's RAM section, the VM's devices, a description of nothing", () => {
  const derived = deriveStateFile(PARENT, SAVED)
  expect(derived).toEqual(Buffer.concat([UP_TO_RAM, DEVICES, hex('06 00000002 7b7d')]))
  expect(readStateFile(derived)).toEqual(readStateFile(PARENT))
})

test('one more generation is the same', () => {
  expect(deriveStateFile(deriveStateFile(PARENT, SAVED), SAVED)).toEqual(deriveStateFile(PARENT, SAVED))
})

test.each([
  ['a parent without devices', UP_TO_RAM, SAVED, 'STATE_FILE_MALFORMED'],
  ['a parent that ends within RAM', UP_TO_RAM.subarray(0, -1), SAVED, 'STATE_FILE_MALFORMED'],
  ['nothing saved', PARENT, Buffer.alloc(0), 'QEMU_STATE_NOT_SAVED'],
  ['another magic', PARENT, Buffer.concat([hex('5145564c 00000003'), DEVICES]), 'QEMU_STATE_NOT_SAVED'],
  ['no device in it', PARENT, hex('5145564d 00000003 00'), 'QEMU_STATE_NOT_SAVED'],
  ['a file that was cut', PARENT, SAVED.subarray(0, -1), 'QEMU_STATE_NOT_SAVED'],
])('refused: %s', (_, parent, saved, code) => {
  expect(() => deriveStateFile(parent, saved)).toThrow(expect.objectContaining({ code }))
})
