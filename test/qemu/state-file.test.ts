import { expect, test } from 'vitest'
import { type QemuError, readStateFile } from '../../src/qemu/index.ts'

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const text = (value: string) => Buffer.concat([Buffer.from([value.length]), Buffer.from(value)])
const be32 = (value: number) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}
const be64 = (value: number) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

const MACHINE = 'pc-q35-10.0'
const HEADER = [hex('5145564d 00000003 07'), be32(MACHINE.length), Buffer.from(MACHINE)]
const capabilities = (...names: string[]) =>
  Buffer.concat([
    hex('05'),
    text('configuration/capabilities'),
    be32(1),
    be32(names.length),
    ...names.map(text),
  ])
const IGNORE_SHARED = capabilities('x-ignore-shared')
const RAM_START = hex('01 00000003 03 72616d 00000000 00000004')
const BLOCK_LIST = Buffer.concat([
  be64(0x20001000 | 4),
  text('ram0'),
  be64(0x20000000),
  be64(0),
  text('pc.rom'),
  be64(0x1000),
  be64(0xc0000),
])
const ENDS = hex('0000000000000010 7e 00000003')
const PART = hex('02 00000003')
const PAGE = Buffer.concat([be64(0x08), text('pc.rom'), Buffer.alloc(4096, 0xf4)])
const ZERO_PAGE = Buffer.concat([be64(0x02), text('pc.rom'), hex('00')])
const END = [hex('03 00000003'), ENDS]
const DEVICES = hex('04 00000004 05 74696d6572 00')

/** QEMU 10.0 and newer. */
const SWITCHOVER_START = hex('08 000b 0000')

const good = [
  ...HEADER,
  IGNORE_SHARED,
  RAM_START,
  BLOCK_LIST,
  ENDS,
  PART,
  PAGE,
  ENDS,
  SWITCHOVER_START,
  ...END,
  DEVICES,
]

test('machine type, blocks and their pages', () => {
  const bytes = Buffer.concat(good)
  expect(readStateFile(bytes)).toEqual({
    machineType: MACHINE,
    ramEndBytes: bytes.length - DEVICES.length,
    blocks: [
      { name: 'ram0', usedBytes: 0x20000000, pages: [] },
      { name: 'pc.rom', usedBytes: 0x1000, pages: [{ offsetBytes: 0, content: Buffer.alloc(4096, 0xf4) }] },
    ],
  })
})

test('zero pages, pages in the last section, a stream without capabilities', () => {
  const list = Buffer.concat([be64(0x2000 | 4), text('pc.rom'), be64(0x2000)])
  const second = Buffer.concat([be64(0x1000 | 0x22), hex('00')])
  const bytes = Buffer.concat([
    ...HEADER,
    hex('05'),
    text('configuration/target-page-bits'),
    be32(1),
    be32(12),
    RAM_START,
    list,
    ENDS,
    hex('03 00000003'),
    ZERO_PAGE,
    second,
    ENDS,
  ])
  expect(readStateFile(bytes).blocks).toEqual([
    {
      name: 'pc.rom',
      usedBytes: 0x2000,
      pages: [
        { offsetBytes: 0, content: null },
        { offsetBytes: 0x1000, content: null },
      ],
    },
  ])
})

test('every file that ends too early is refused, not read beyond', () => {
  const bytes = Buffer.concat(good.slice(0, -1))
  // Each length up to the page's content, then some within it.
  const lengths = Array.from({ length: bytes.length }, (_, i) => i).filter((i) => i < 200 || i % 97 === 0)
  for (const length of lengths) {
    expect(() => readStateFile(bytes.subarray(0, length)), `${length} bytes`).toThrow(
      expect.objectContaining({ code: 'STATE_FILE_MALFORMED' }),
    )
  }
})

test.each<[string, Uint8Array[]]>([
  ['another magic', [hex('51455641 00000003 07')]],
  ['another version', [hex('5145564d 00000002 07')]],
  ['no configuration', [hex('5145564d 00000003 01')]],
  ['a name of 4 GiB', [hex('5145564d 00000003 07 ffffffff')]],
  ['a capability that changes the layout', [...HEADER, capabilities('mapped-ram'), RAM_START]],
  ['an unknown subsection', [...HEADER, hex('05'), text('configuration/what'), be32(1)]],
  ['big pages', [...HEADER, hex('05'), text('configuration/target-page-bits'), be32(1), be32(16)]],
  ['another first section', [...HEADER, hex('01 00000003 05 626c6f636b 00000000 00000001')]],
  ['another version of RAM', [...HEADER, hex('01 00000003 03 72616d 00000000 00000005')]],
  ['a page before the list', [...HEADER, RAM_START, PAGE]],
  ['a list that adds up to more', [...HEADER, RAM_START, be64(0x1000 | 4), text('a'), be64(0x2000)]],
  ['a block of nothing', [...HEADER, RAM_START, be64(0x1000 | 4), text('a'), be64(0)]],
  [
    'a block twice',
    [...HEADER, RAM_START, be64(0x2000 | 4), text('a'), be64(0x1000), text('a'), be64(0x1000)],
  ],
  [
    'a page outside of its block',
    [...HEADER, IGNORE_SHARED, RAM_START, BLOCK_LIST, be64(0x1000 | 8), text('pc.rom'), Buffer.alloc(4096)],
  ],
  ['an unknown record', [...HEADER, IGNORE_SHARED, RAM_START, BLOCK_LIST, be64(0x40), text('pc.rom')]],
  [
    'a fill that is not zero',
    [...HEADER, IGNORE_SHARED, RAM_START, BLOCK_LIST, be64(2), text('pc.rom'), hex('01')],
  ],
  [
    'a footer of another section',
    [...HEADER, IGNORE_SHARED, RAM_START, BLOCK_LIST, hex('0000000000000010 7e 00000004')],
  ],
  ['a part of another section', [...HEADER, IGNORE_SHARED, RAM_START, BLOCK_LIST, ENDS, hex('02 00000004')]],
  ['another command', [...HEADER, IGNORE_SHARED, RAM_START, BLOCK_LIST, ENDS, hex('08 0005 0000')]],
  ['devices within RAM', [...HEADER, IGNORE_SHARED, RAM_START, BLOCK_LIST, ENDS, DEVICES]],
])('refused: %s', (_, parts) => {
  // Zeros after it: refused for what it is, not because the file ends.
  const length = Buffer.concat(parts).length
  let error: unknown
  try {
    readStateFile(Buffer.concat([...parts, Buffer.alloc(256)]))
  } catch (thrown) {
    error = thrown
  }
  expect(error).toMatchObject({ code: 'STATE_FILE_MALFORMED', details: { position: expect.any(Number) } })
  expect((error as QemuError).details.position).toBeLessThanOrEqual(length)
})
