import { PAGE_BYTES } from '../domain/page.ts'
import { QemuError } from './errors.ts'
import {
  isPageOffset,
  PAGE_FLAG,
  RAM_VERSION,
  SECTION,
  STREAM_MAGIC,
  STREAM_VERSION,
  type StreamBlock,
} from './stream-format.ts'

/** What a stream of QEMU's own says up to its last page; views are valid until more is fed. */
export type StreamRecord =
  | { kind: 'machine'; machineType: string }
  | { kind: 'block'; block: StreamBlock }
  /** `content` null means zero. */
  | { kind: 'page'; block: StreamBlock; offsetBytes: number; content: Uint8Array | null }

/** Blocks of a q35: main RAM, two firmware ROMs, three tables of ACPI; each device with a ROM adds one. */
const MAX_BLOCKS = 256
/** The longest name of a machine type has some 30. */
const MAX_MACHINE_TYPE_BYTES = 256
/** QEMU has two dozen capabilities. */
const MAX_CAPABILITIES = 64

/** Command 11 and its length, 0, as one number. */
const SWITCHOVER_START = 0x000b_0000

/**
 * Records of a stream that `migrate` writes (layout: stream-format.ts), up to
 * the end of RAM; the input stands at the first device then. Yields null where
 * it needs bytes that weren't fed yet.
 *
 * @throws QemuError with the input's code (details: position)
 */
export function* streamRecords(input: StreamInput): Generator<StreamRecord | null, void, void> {
  while (!input.has(9)) yield null
  if (STREAM_MAGIC.compare(input.bytes(4)) !== 0) input.fail('not a migration stream')
  if (input.be32() !== STREAM_VERSION) input.fail('not version 3 of the migration stream')
  if (input.u8() !== SECTION.configuration) input.fail('no configuration')
  const machineType = yield* text(input, yield* be32(input), MAX_MACHINE_TYPE_BYTES)
  yield { kind: 'machine', machineType }
  const { capabilities, sectionType } = yield* configuration(input)
  if (sectionType !== SECTION.start) input.fail('RAM is not the first section')
  const sectionId = yield* be32(input)
  if ((yield* shortText(input)) !== 'ram') input.fail('RAM is not the first section')
  if ((yield* be32(input)) !== 0 || (yield* be32(input)) !== RAM_VERSION)
    input.fail('RAM section of another instance or version')
  const blocks = new Map<string, StreamBlock>()
  let block: StreamBlock | undefined
  for (let type: number = SECTION.start; ; ) {
    block = yield* sectionRecords(input, blocks, capabilities.has('x-ignore-shared'), block)
    if ((yield* u8(input)) !== SECTION.footer || (yield* be32(input)) !== sectionId)
      input.fail('RAM section without its footer')
    if (type === SECTION.end) return
    type = yield* u8(input)
    if (type === SECTION.command) {
      if ((yield* be32(input)) !== SWITCHOVER_START) input.fail('an unknown command within RAM')
      type = yield* u8(input)
    }
    if (type !== SECTION.part && type !== SECTION.end) input.fail('another section within RAM')
    if ((yield* be32(input)) !== sectionId) input.fail('another section within RAM')
  }
}

/** Optional parts of the configuration; those that say nothing about the layout are skipped. */
function* configuration(
  input: StreamInput,
): Generator<null, { capabilities: Set<string>; sectionType: number }> {
  const capabilities = new Set<string>()
  let sectionType = yield* u8(input)
  for (; sectionType === SECTION.subsection; sectionType = yield* u8(input)) {
    const name = yield* shortText(input)
    if ((yield* be32(input)) !== 1) input.fail(`unknown version of ${name}`)
    switch (name) {
      case 'configuration/capabilities': {
        const count = yield* be32(input)
        if (count > MAX_CAPABILITIES) input.fail(`${count} capabilities`)
        for (let left = count; left > 0; left--) capabilities.add(yield* shortText(input))
        break
      }
      case 'configuration/target-page-bits':
        if ((yield* be32(input)) !== 12) input.fail('pages of another size than 4096 bytes')
        break
      default:
        input.fail(`unknown part ${name}`)
    }
  }
  for (const capability of capabilities) {
    if (capability !== 'x-ignore-shared') input.fail(`saved with ${capability}`)
  }
  return { capabilities, sectionType }
}

/** Records up to the end of a section: the list of blocks, then pages. */
function* sectionRecords(
  input: StreamInput,
  blocks: Map<string, StreamBlock>,
  hasAddresses: boolean,
  last: StreamBlock | undefined,
): Generator<StreamRecord | null, StreamBlock | undefined> {
  // Carries over from one section to the next, as in QEMU's own reader.
  let block = last
  for (;;) {
    while (!input.has(8)) yield null
    const word = input.be64()
    const flags = word % PAGE_BYTES
    const offsetBytes = word - flags
    if (flags === PAGE_FLAG.endOfSection) return block
    if (flags === PAGE_FLAG.memSize) {
      yield* blockList(input, blocks, offsetBytes, hasAddresses)
      continue
    }
    if ((flags & PAGE_FLAG.sameBlock) === 0) block = blocks.get(yield* shortText(input))
    if (block === undefined || !isPageOffset(offsetBytes, block))
      input.fail('a page outside of the blocks listed')
    const kind = flags & ~PAGE_FLAG.sameBlock
    if (kind === PAGE_FLAG.page) {
      while (!input.has(PAGE_BYTES)) yield null
      yield { kind: 'page', block, offsetBytes, content: input.bytes(PAGE_BYTES) }
    } else if (kind === PAGE_FLAG.zero) {
      if ((yield* u8(input)) !== 0) input.fail('a page filled with something else than zero')
      yield { kind: 'page', block, offsetBytes, content: null }
    } else {
      input.fail(`a page of unknown kind 0x${flags.toString(16)}`)
    }
  }
}

function* blockList(
  input: StreamInput,
  blocks: Map<string, StreamBlock>,
  totalBytes: number,
  hasAddresses: boolean,
): Generator<StreamRecord | null, void> {
  let leftBytes = totalBytes
  while (leftBytes > 0) {
    const name = yield* shortText(input)
    while (!input.has(hasAddresses ? 16 : 8)) yield null
    const usedBytes = input.be64()
    if (hasAddresses) input.be64()
    if (usedBytes === 0 || usedBytes > leftBytes || blocks.has(name) || blocks.size === MAX_BLOCKS)
      input.fail('a list of blocks that does not add up')
    const block = { name, usedBytes }
    blocks.set(name, block)
    yield { kind: 'block', block }
    leftBytes -= usedBytes
  }
}

function* u8(input: StreamInput): Generator<null, number> {
  while (!input.has(1)) yield null
  return input.u8()
}

function* be32(input: StreamInput): Generator<null, number> {
  while (!input.has(4)) yield null
  return input.be32()
}

function* text(input: StreamInput, length: number, maxBytes: number): Generator<null, string> {
  if (length > maxBytes) input.fail(`a name of ${length} bytes`)
  while (!input.has(length)) yield null
  return input.bytes(length).toString('latin1')
}

function* shortText(input: StreamInput): Generator<null, string> {
  return yield* text(input, yield* u8(input), 255)
}

/** Big-endian reads from what was fed; whoever reads asks `has` before. */
export class StreamInput {
  readonly #code: 'STATE_FILE_MALFORMED' | 'OUTGOING_MALFORMED'
  #bytes: Buffer = Buffer.alloc(0)
  #next = 0
  #fedBytes = 0

  constructor(code: 'STATE_FILE_MALFORMED' | 'OUTGOING_MALFORMED') {
    this.#code = code
  }

  /** Where in the stream the next read begins. */
  get position(): number {
    return this.#fedBytes - (this.#bytes.length - this.#next)
  }

  /** Takes over `chunk`, not copied unless something is left of the one before. */
  feed(chunk: Uint8Array): void {
    const left = this.rest()
    const added = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    this.#bytes = left.length === 0 ? added : Buffer.concat([left, added])
    this.#next = 0
    this.#fedBytes += chunk.length
  }

  /** What was fed and not read. */
  rest(): Buffer {
    return this.#bytes.subarray(this.#next)
  }

  has(length: number): boolean {
    return this.#bytes.length - this.#next >= length
  }

  fail(reason: string): never {
    throw new QemuError(this.#code, `QEMU's stream, before byte ${this.position}: ${reason}`, {
      details: { position: this.position },
    })
  }

  bytes(length: number): Buffer {
    this.#next += length
    return this.#bytes.subarray(this.#next - length, this.#next)
  }

  u8(): number {
    this.#next += 1
    return this.#bytes.readUInt8(this.#next - 1)
  }

  be32(): number {
    this.#next += 4
    return this.#bytes.readUInt32BE(this.#next - 4)
  }

  be64(): number {
    this.#next += 8
    const high = this.#bytes.readUInt32BE(this.#next - 8)
    if (high >= 2 ** 21) this.fail('a number beyond 2^53')
    return high * 2 ** 32 + this.#bytes.readUInt32BE(this.#next - 4)
  }
}
