import {
  decodeBatch,
  decompressDeviceState,
  type PageGroup,
  PageHashes,
  type ReferencedPages,
} from '../../codec/index.ts'
import { PageBitmap } from '../../domain/bitmap.ts'
import { PAGE_BYTES, type Page, ZERO_PAGE } from '../../domain/page.ts'
import { type GuestLocation, GuestMemory } from '../../memory/index.ts'
import { encodePages, encodeZeroPages, RAM_BLOCK } from '../../qemu/index.ts'
import { MAX_PAGES_FRAME_BYTES } from '../../wire/pages-frame-bounds.ts'
import { type ExtraBlock, ExtraBlocks } from '../extra-blocks.ts'
import { KeptFile } from '../kept/kept-file.ts'
import { writePageTable } from '../kept/page-table.ts'
import { type HashedPages, PageHasher } from '../siblings/hashed-pages.ts'
import { MAX_SIBLING_PAGES, type Sibling } from '../siblings/sibling-index.ts'
import { SiblingLookup } from '../siblings/sibling-lookup.ts'
import { TemplateRam } from '../template-ram.ts'
import type { Slots } from './slots.ts'

/** The guest whose pages arrive. */
export interface ArrivalInit {
  /** The template's RAM file here. */
  ramPath: string
  memoryBytes: number
  /** Of the page hashes, as the source chose it. */
  seed: number
  /** Where frames are, and the stream is put. */
  slots: Slots
  /** The template's device state, which both sides have. */
  dictionary: Uint8Array
  /** Of the template: their pages follow those of main RAM. */
  extraBlocks: readonly ExtraBlock[]
  /** VMs here whose pages references may lead to. */
  siblings: readonly Pick<Sibling, 'guest' | 'pages'>[]
}

export interface AppliedBatch {
  /** Of what IncomingStream.writeEncoded() takes, at the beginning of the slot. */
  streamBytes: number
  /** Of each reference, in order, whether it led nowhere. */
  lost: boolean[]
}

/** A PageGroup whose data lies in a slot. */
export interface GroupInSlot extends Pick<PageGroup, 'encoding' | 'indices'> {
  offsetBytes: number
  lengthBytes: number
}

/** Shared by all jobs of a thread: a call leaves nothing in it. */
const scratch = Buffer.alloc(MAX_PAGES_FRAME_BYTES)

interface ReadableSibling {
  pages: HashedPages
  memory: GuestMemory
}

/** What comes of the pages of a VM that arrives: decoded, hashed, and written as QEMU reads them. */
export class ArrivalJob {
  readonly #template: TemplateRam
  readonly #hashes: PageHashes
  readonly #pages: number
  readonly #extra: ExtraBlocks
  readonly #siblings: readonly ReadableSibling[]
  readonly #references: ReferencedPages
  #hashing: { memory: GuestMemory; hasher: PageHasher } | null = null
  readonly #slots: Slots
  #kept: { file: KeptFile; checking: Generator<void, boolean>; batches: Generator<Page[]> } | null = null
  readonly #dictionary: Uint8Array

  private constructor(
    { ramPath, memoryBytes, seed, slots, dictionary, extraBlocks }: ArrivalInit,
    siblings: readonly ReadableSibling[],
  ) {
    this.#siblings = siblings
    this.#references = new SiblingLookup(siblings)
    this.#slots = slots
    this.#dictionary = dictionary
    const ramPages = memoryBytes / PAGE_BYTES
    this.#extra = new ExtraBlocks(ramPages, extraBlocks)
    this.#pages = ramPages + this.#extra.pages
    this.#hashes = new PageHashes(this.#pages, seed)
    this.#template = new TemplateRam({ path: ramPath, ramPages, extra: this.#extra })
  }

  static async open(init: ArrivalInit): Promise<ArrivalJob> {
    await using cleanup = new AsyncDisposableStack()
    const siblings: ReadableSibling[] = []
    for (const { guest, pages } of init.siblings) {
      // One that is going just now has no pages.
      const memory = await GuestMemory.open(guest).catch(() => null)
      if (memory !== null) siblings.push({ pages, memory: cleanup.use(memory) })
    }
    const job = new ArrivalJob(init, siblings)
    cleanup.move()
    return job
  }

  /**
   * Opens the pages that the guest left here once.
   *
   * @param digest - what they must hash to
   * @returns false when they are gone
   */
  openBaseline(path: string, digest: Uint8Array): boolean {
    const file = KeptFile.open(path, digest)
    if (file === null) return false
    const checking = file.checking({ seed: this.#hashes.seed, pages: this.#pages, digest })
    this.#kept = { file, checking, batches: file.pages() }
    return true
  }

  /** A part of the look whether they are as they were. @returns null until it is over: call it again */
  checkBaseline(): boolean | null {
    const { done, value } = this.#kept!.checking.next()
    return done === true ? value : null
  }

  /** The next of those pages, as `apply` has them; 0 bytes when there are no more. */
  nextBaseline(slot: number): number {
    const next = this.#kept!.batches.next()
    return next.done === true ? 0 : this.#write(next.value, slot)
  }

  /** Hashes pages and puts them where QEMU is written from. @returns bytes */
  #write(pages: readonly Page[], slot: number): number {
    for (const { index, content } of pages) this.#hashes.update(index, content)
    const streamBytes = encodeForQemu(pages, this.#extra)
    new Uint8Array(this.#slots[slot]!).set(scratch.subarray(0, streamBytes))
    return streamBytes
  }

  /** Writes what the guest arrived with: see page-table.ts. */
  saveTable(path: string): void {
    writePageTable(path, this.#hashes)
  }

  /**
   * Decodes a batch; what QEMU reads of it takes its place in the slot.
   *
   * @throws CodecError BATCH_MALFORMED
   */
  apply(slot: number, inSlot: readonly GroupInSlot[]): AppliedBatch {
    const bytes = new Uint8Array(this.#slots[slot]!)
    const groups = inSlot.map(({ encoding, indices, offsetBytes, lengthBytes }) => ({
      encoding,
      indices,
      data: bytes.subarray(offsetBytes, offsetBytes + lengthBytes),
    }))
    const components = { template: this.#template, references: this.#references }
    const { pages, lost } = decodeBatch(groups, components, this.#pages)
    return { streamBytes: this.#write(pages, slot), lost }
  }

  /**
   * What Finish is about: the digest of all pages that came, as PageHashes.digest() has it, and the device state.
   *
   * @throws CodecError DEVICE_STATE_MALFORMED
   */
  finish(compressedState: Uint8Array, stateBytes: number): { digest: Uint8Array; deviceState: Uint8Array } {
    return {
      digest: this.#hashes.digest(this.#hashes.known),
      deviceState: decompressDeviceState(compressedState, this.#dictionary, stateBytes),
    }
  }

  /**
   * Hashes what came, for references of VMs that come later: as it is in the guest, which runs by now. Again and again
   * until it returns false.
   *
   * @throws MemoryError
   */
  async hashPages(guest: GuestLocation): Promise<boolean> {
    this.#hashing ??= {
      memory: await GuestMemory.open(guest),
      hasher: new PageHasher(this.#knownInRam(), MAX_SIBLING_PAGES),
    }
    return this.#hashing.hasher.step(this.#hashing.memory)
  }

  #knownInRam(): PageBitmap {
    const { known } = this.#hashes
    const ramPages = this.#pages - this.#extra.pages
    return PageBitmap.of(ramPages, known.words().subarray(0, Math.ceil(ramPages / 32)))
  }

  /** What `hashPages` has found. */
  hashedPages(): HashedPages {
    return this.#hashing!.hasher.take()
  }

  async close(): Promise<void> {
    await Promise.all(this.#siblings.map(({ memory }) => memory.close()))
    await this.#hashing?.memory.close()
    this.#kept?.file[Symbol.dispose]()
    this.#template[Symbol.dispose]()
  }
}

/**
 * Writes pages to `scratch`. Zero pages go as zero records: QEMU then leaves a page alone that is zero already.
 *
 * @returns bytes written
 */
function encodeForQemu(pages: readonly Page[], extra: ExtraBlocks): number {
  const byBlock = Map.groupBy(pages, ({ index }) => extra.placeOf(index)?.name ?? RAM_BLOCK)
  const chunks = [...byBlock].flatMap(([name, inBlock]) => encodeBlock(name, inBlock, extra))
  // Not to the slot at once: pages that came raw are still there.
  let position = 0
  for (const chunk of chunks) {
    scratch.set(chunk, position)
    position += chunk.length
  }
  return position
}

function encodeBlock(name: string, pages: readonly Page[], extra: ExtraBlocks): Uint8Array[] {
  const zeros = pages.filter(({ content }) => content === ZERO_PAGE)
  const others = pages.filter(({ content }) => content !== ZERO_PAGE)
  const offsetBytes = ({ index }: Page) => (extra.placeOf(index)?.page ?? index) * PAGE_BYTES
  return [
    ...(zeros.length === 0 ? [] : encodeZeroPages(name, zeros.map(offsetBytes))),
    ...(others.length === 0
      ? []
      : encodePages(
          name,
          others.map((page) => ({ offsetBytes: offsetBytes(page), content: page.content })),
        )),
  ]
}
