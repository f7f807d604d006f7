import { PAGE_BYTES } from '../domain/page.ts'
import { QemuError } from './errors.ts'
import {
  isPageOffset,
  PAGE_FLAG,
  RAM_VERSION,
  SECTION,
  STREAM_MAGIC,
  STREAM_VERSION,
} from './stream-format.ts'

/** A page of a state file; `content` null means zero. */
export interface StatePage {
  offsetBytes: number
  content: Uint8Array | null
}

export interface StateBlock {
  name: string
  usedBytes: number
  pages: StatePage[]
}

/** What of a template's state concerns memory; the devices follow it in the file. */
export interface StateFile {
  machineType: string
  /** In the file's order. Main RAM is listed and has no pages: they are in the template's RAM file. */
  blocks: StateBlock[]
  /** Where the last section of RAM ends and the first device begins. */
  ramEndBytes: number
}

/** The devices of a state file: what device states of its clones are compressed against. */
export function deviceSections(stateFile: Buffer): Buffer {
  return stateFile.subarray(readStateFile(stateFile).ramEndBytes)
}

/** Blocks of a q35: main RAM, two firmware ROMs, three tables of ACPI; each device with a ROM adds one. */
const MAX_BLOCKS = 256

/** Command 11 and its length, 0, as one number. */
const SWITCHOVER_START = 0x000b_0000

/**
 * Reads the head of a file that `migrate` wrote with `x-ignore-shared`
 * (layout: stream-format.ts): machine type and RAM blocks. Contents are views
 * on `bytes`.
 *
 * @throws QemuError STATE_FILE_MALFORMED (details: position)
 */
export function readStateFile(bytes: Uint8Array): StateFile {
  const reader = new Reader(bytes)
  if (STREAM_MAGIC.compare(reader.bytes(4)) !== 0) reader.fail('not a migration stream')
  if (reader.be32() !== STREAM_VERSION) reader.fail('not version 3 of the migration stream')
  if (reader.u8() !== SECTION.configuration) reader.fail('no configuration')
  const machineType = reader.text(reader.be32())
  const capabilities = readConfigurationSubsections(reader)

  if (reader.u8() !== SECTION.start) reader.fail('RAM is not the first section')
  const sectionId = reader.be32()
  if (reader.shortText() !== 'ram') reader.fail('RAM is not the first section')
  if (reader.be32() !== 0 || reader.be32() !== RAM_VERSION)
    reader.fail('RAM section of another instance or version')
  const blocks = new Map<string, StateBlock>()
  for (let type: number = SECTION.start; ; ) {
    readRecords(reader, blocks, capabilities.has('x-ignore-shared'))
    if (reader.u8() !== SECTION.footer || reader.be32() !== sectionId)
      reader.fail('RAM section without its footer')
    if (type === SECTION.end)
      return { machineType, blocks: [...blocks.values()], ramEndBytes: reader.position }
    type = reader.u8()
    if (type === SECTION.command) {
      if (reader.be32() !== SWITCHOVER_START) reader.fail('an unknown command within RAM')
      type = reader.u8()
    }
    if (type !== SECTION.part && type !== SECTION.end) reader.fail('another section within RAM')
    if (reader.be32() !== sectionId) reader.fail('another section within RAM')
  }
}

/** Optional parts of the configuration; those that say nothing about the layout are skipped. */
function readConfigurationSubsections(reader: Reader): Set<string> {
  const capabilities = new Set<string>()
  while (reader.peek() === SECTION.subsection) {
    reader.u8()
    const name = reader.shortText()
    if (reader.be32() !== 1) reader.fail(`unknown version of ${name}`)
    switch (name) {
      case 'configuration/capabilities':
        for (let left = reader.be32(); left > 0; left--) capabilities.add(reader.shortText())
        break
      case 'configuration/target-page-bits':
        if (reader.be32() !== 12) reader.fail('pages of another size than 4096 bytes')
        break
      default:
        reader.fail(`unknown part ${name}`)
    }
  }
  for (const capability of capabilities) {
    if (capability !== 'x-ignore-shared') reader.fail(`saved with ${capability}`)
  }
  return capabilities
}

/** Records up to the end of a section: the list of blocks, then pages. */
function readRecords(reader: Reader, blocks: Map<string, StateBlock>, hasAddresses: boolean): void {
  let block: StateBlock | undefined
  for (;;) {
    const word = reader.be64()
    const flags = word % PAGE_BYTES
    const offsetBytes = word - flags
    if (flags === PAGE_FLAG.endOfSection) return
    if (flags === PAGE_FLAG.memSize) {
      readBlockList(reader, blocks, offsetBytes, hasAddresses)
      continue
    }
    if ((flags & PAGE_FLAG.sameBlock) === 0) block = blocks.get(reader.shortText())
    if (block === undefined || !isPageOffset(offsetBytes, block))
      reader.fail('a page outside of the blocks listed')
    const kind = flags & ~PAGE_FLAG.sameBlock
    if (kind === PAGE_FLAG.page) {
      block.pages.push({ offsetBytes, content: reader.bytes(PAGE_BYTES) })
    } else if (kind === PAGE_FLAG.zero) {
      if (reader.u8() !== 0) reader.fail('a page filled with something else than zero')
      block.pages.push({ offsetBytes, content: null })
    } else {
      reader.fail(`a page of unknown kind 0x${flags.toString(16)}`)
    }
  }
}

function readBlockList(
  reader: Reader,
  blocks: Map<string, StateBlock>,
  totalBytes: number,
  hasAddresses: boolean,
): void {
  let leftBytes = totalBytes
  while (leftBytes > 0) {
    const name = reader.shortText()
    const usedBytes = reader.be64()
    if (hasAddresses) reader.be64()
    if (usedBytes === 0 || usedBytes > leftBytes || blocks.has(name) || blocks.size === MAX_BLOCKS) {
      reader.fail('a list of blocks that does not add up')
    }
    blocks.set(name, { name, usedBytes, pages: [] })
    leftBytes -= usedBytes
  }
}

/** Big-endian reads that end with STATE_FILE_MALFORMED, never outside of the file. */
class Reader {
  readonly #bytes: Buffer
  #position = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get position(): number {
    return this.#position
  }

  fail(reason: string): never {
    throw new QemuError('STATE_FILE_MALFORMED', `state file, before byte ${this.#position}: ${reason}`, {
      details: { position: this.#position },
    })
  }

  bytes(length: number): Buffer {
    if (length > this.#bytes.length - this.#position) this.fail('the file ends too early')
    this.#position += length
    return this.#bytes.subarray(this.#position - length, this.#position)
  }

  u8(): number {
    return this.bytes(1).readUInt8()
  }

  be32(): number {
    return this.bytes(4).readUInt32BE()
  }

  be64(): number {
    const value = Number(this.bytes(8).readBigUInt64BE())
    return Number.isSafeInteger(value) ? value : this.fail('a number beyond 2^53')
  }

  text(length: number): string {
    return this.bytes(length).toString('latin1')
  }

  shortText(): string {
    return this.text(this.u8())
  }

  peek(): number | undefined {
    return this.#bytes[this.#position]
  }
}
