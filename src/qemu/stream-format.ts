/**
 * QEMU's migration stream, as far as drover writes and reads it
 * (migration/savevm.c, migration/ram.c and vmstate.c in QEMU's sources;
 * unchanged from 7.2 to 11.0). Numbers are big-endian.
 *
 * What an arriving QEMU is given, here for a pc-q35-7.2 with one ROM block and
 * three pages of RAM, the third of them zero:
 *
 *     51 45 56 4d  00 00 00 03                       "QEVM", version 3
 *     07  00 00 00 0a  "pc-q35-7.2"                  configuration: the machine type's length and name
 *     01  00 00 00 02  03 "ram"  00 00 00 00  00 00 00 04
 *                                                    START of section 2: "ram", instance 0, version 4
 *         00 00 00 00 20 04 00 04                    sum of the blocks' lengths | MEM_SIZE
 *         04 "ram0"     00 00 00 00 20 00 00 00      each block that will be sent: its name and used length
 *         07 "pc.bios"  00 00 00 00 00 04 00 00
 *         00 00 00 00 00 00 00 10                    EOS
 *     7e  00 00 00 02                                footer of section 2
 *     02  00 00 00 02                                PART of section 2, as many as wanted
 *         00 00 00 00 00 12 30 08  04 "ram0"         offset 0x123000 | PAGE, the block
 *             4096 bytes
 *         00 00 00 00 00 12 40 28                    offset 0x124000 | PAGE | CONTINUE: in the same block
 *             4096 bytes
 *         00 00 00 00 00 12 50 22  00                offset 0x125000 | ZERO | CONTINUE, the byte that fills it
 *         00 00 00 00 00 00 00 10                    EOS
 *     7e  00 00 00 02
 *     03  00 00 00 02                                END
 *         00 00 00 00 00 00 00 10
 *     7e  00 00 00 02
 *     04  00 00 00 36  06 "serial" ...               FULL sections, one per device, then
 *     00                                             EOF: xen-save-devices-state's file from its 9th byte on
 *     06  00 00 00 02  "{}"                          description of the devices for analysis tools: none
 *
 * A state file of QEMU's own (`migrate` with x-ignore-shared) is the same, with
 * subsections in its configuration, an address after each block's length, and
 * no pages of the blocks that are shared files. Since 10.0 a command stands
 * before END:
 *
 *     08  00 0b  00 00                               SWITCHOVER_START, no data
 */
import { PAGE_BYTES } from '../domain/page.ts'

/** Id of the memory backend, and so the name of main RAM in every stream. */
export const RAM_BLOCK = 'ram0'

export const STREAM_MAGIC = Buffer.from('QEVM')
export const STREAM_VERSION = 3
export const RAM_VERSION = 4

/** First byte of a section. */
export const SECTION = {
  eof: 0x00,
  start: 0x01,
  part: 0x02,
  end: 0x03,
  full: 0x04,
  subsection: 0x05,
  description: 0x06,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const

/** Low bits of a page's offset. */
export const PAGE_FLAG = {
  zero: 0x02,
  memSize: 0x04,
  page: 0x08,
  endOfSection: 0x10,
  sameBlock: 0x20,
} as const

/** Main RAM's section in the streams that drover writes: QEMU's own numbering begins with other sections. */
const RAM_SECTION_ID = 2

export interface StreamBlock {
  name: string
  usedBytes: number
}

/** Everything before the first page. */
export function encodeBeginning(machineType: string, blocks: readonly StreamBlock[]): Buffer {
  const totalBytes = blocks.reduce((sum, block) => sum + block.usedBytes, 0)
  return Buffer.concat([
    STREAM_MAGIC,
    be32(STREAM_VERSION),
    Buffer.from([SECTION.configuration]),
    be32(Buffer.byteLength(machineType)),
    Buffer.from(machineType),
    sectionHeader(SECTION.start),
    shortString('ram'),
    be32(0),
    be32(RAM_VERSION),
    be64(totalBytes + PAGE_FLAG.memSize),
    ...blocks.flatMap((block) => [shortString(block.name), be64(block.usedBytes)]),
    RAM_SECTION_END,
  ])
}

/** A PART with pages of one block. The contents are in the result as they are, not copied. */
export function encodePages(
  blockName: string,
  pages: readonly { offsetBytes: number; content: Uint8Array }[],
): Uint8Array[] {
  const headers = pageHeaders(blockName, pages.length)
  const chunks: Uint8Array[] = [PART_HEADER]
  for (const page of pages) chunks.push(headers.next(page.offsetBytes, PAGE_FLAG.page), page.content)
  chunks.push(RAM_SECTION_END)
  return chunks
}

/** A PART that makes pages zero; QEMU leaves those alone that are zero already. */
export function encodeZeroPages(blockName: string, offsetsBytes: readonly number[]): Uint8Array[] {
  const headers = pageHeaders(blockName, offsetsBytes.length)
  const chunks: Uint8Array[] = [PART_HEADER]
  for (const offsetBytes of offsetsBytes) chunks.push(headers.next(offsetBytes, PAGE_FLAG.zero), FILL_ZERO)
  chunks.push(RAM_SECTION_END)
  return chunks
}

/** Everything after the last page. `deviceState`: a file of xen-save-devices-state, which has a header of its own. */
export function encodeEnd(deviceState: Uint8Array): Uint8Array[] {
  return [END_OF_RAM, ...encodeDevices(deviceState)]
}

/** Everything after RAM: all devices, and no description of them. */
export function encodeDevices(deviceState: Uint8Array): Uint8Array[] {
  return [deviceState.subarray(STREAM_HEADER_BYTES), NO_DESCRIPTION]
}

/** Whether bytes begin as a file of xen-save-devices-state does, and hold more than its header. */
export function isDeviceState(bytes: Uint8Array): boolean {
  return bytes.length > STREAM_HEADER_BYTES && STREAM_MAGIC.compare(bytes, 0, STREAM_MAGIC.length) === 0
}

/** "QEVM" and the version. */
export const STREAM_HEADER_BYTES = 8

/** Offsets of one block's pages, the first with the block's name; all in one buffer. */
function pageHeaders(
  blockName: string,
  count: number,
): { next(offsetBytes: number, flag: number): Uint8Array } {
  const name = shortString(blockName)
  const buffer = Buffer.allocUnsafe(count * 8 + name.length)
  let position = 0
  return {
    next(offsetBytes, flag) {
      const start = position
      const isFirst = start === 0
      const flags = isFirst ? flag : flag | PAGE_FLAG.sameBlock
      buffer.writeUInt32BE(Math.floor(offsetBytes / 2 ** 32), start)
      buffer.writeUInt32BE((offsetBytes % 2 ** 32) + flags, start + 4)
      position += 8
      if (isFirst) position += name.copy(buffer, position)
      return buffer.subarray(start, position)
    },
  }
}

/** Whether a page may be at this offset: flags live in the low bits. */
export function isPageOffset(offsetBytes: number, block: StreamBlock): boolean {
  return (
    Number.isSafeInteger(offsetBytes) &&
    offsetBytes % PAGE_BYTES === 0 &&
    offsetBytes >= 0 &&
    offsetBytes < block.usedBytes
  )
}

function sectionHeader(type: number): Buffer {
  return Buffer.concat([Buffer.from([type]), be32(RAM_SECTION_ID)])
}

function shortString(text: string): Buffer {
  return Buffer.concat([Buffer.from([Buffer.byteLength(text)]), Buffer.from(text)])
}

function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function be64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

const PART_HEADER = sectionHeader(SECTION.part)
const RAM_SECTION_END = Buffer.concat([be64(PAGE_FLAG.endOfSection), sectionHeader(SECTION.footer)])
const END_OF_RAM = Buffer.concat([sectionHeader(SECTION.end), RAM_SECTION_END])
const FILL_ZERO = Buffer.from([0])
const NO_DESCRIPTION = Buffer.concat([Buffer.from([SECTION.description]), be32(2), Buffer.from('{}')])
