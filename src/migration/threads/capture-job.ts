import {
  BatchEncoder,
  CompressionChoice,
  classifyPage,
  compressDeviceState,
  type Encoding,
  MAX_BATCH_PAGES,
  PATIENT,
  PageHashes,
} from '../../codec/index.ts'
import { PageBitmap } from '../../domain/bitmap.ts'
import { isZeroPage, PAGE_BYTES, type PageIndex } from '../../domain/page.ts'
import type { PageCounts } from '../../domain/vm.ts'
import { type GuestLocation, GuestMemory } from '../../memory/index.ts'
import { writePagesFrame } from '../../wire/pages-frame-writer.ts'
import { MigrationError } from '../errors.ts'
import { type ExtraBlock, ExtraBlocks } from '../extra-blocks.ts'
import { writingKeptFile } from '../kept/kept-file.ts'
import { readPageTable } from '../kept/page-table.ts'
import { MAX_ROUND_REFERENCES } from '../protocol.ts'
import { referenceHash } from '../siblings/hashed-pages.ts'
import { SiblingFilter } from '../siblings/sibling-filter.ts'
import { countStockPages } from '../stock-equivalent.ts'
import { TemplateRam } from '../template-ram.ts'
import type { GuestPages } from './guest-pages.ts'
import { MemoryPages } from './memory-pages.ts'
import { MigratedPages } from './migrated-pages.ts'
import type { Slots } from './slots.ts'

/** The guest whose pages are captured. */
export interface CaptureInit extends GuestLocation {
  /** Null: they are read out of its memory. Otherwise QEMU sends them there: see MigratedPages. */
  outgoing: { socketPath: string; passEnded: SharedArrayBuffer; extraBlocks: readonly ExtraBlock[] } | null
  /** Of the page hashes, where no table says which. */
  seed: number
  /** Where the table of the guest's arrival here would be: see page-table.ts; null: it doesn't matter. */
  tablePath: string | null
  /** Where frames are put. */
  slots: Slots
  /** The template's device state, which both sides have. */
  dictionary: Uint8Array
}

/** Which pages to look at, as bitmaps' words. */
export interface RoundInit {
  round: number
  private: Uint32Array
  candidates: Uint32Array
  /** Pages that the destination seems to have elsewhere may go as references. Not in the blackout: they may be lost. */
  mayRefer: boolean
  /** Most pages in a batch, up to MAX_BATCH_PAGES: fewer where the link is slow. */
  batchPages: number
}

/** Numbers of pages. */
export interface CaptureSummary {
  /** That the destination holds from us, in whatever way. */
  sent: number
  private: number
  omitted: number
  /** Of those sent, that it had kept. */
  baseline: number
  /** That a plain QEMU migration would send. */
  stockPages: number
}

/** A part of a round. */
export interface CapturedBatch {
  /** Of the frame at the beginning of the slot; 0 when nothing has changed. */
  frameBytes: number
  pages: Partial<Record<Encoding, number>>
  /** Nothing of this round is left. */
  isLast: boolean
}

/** Of a round's references: with more that lead nowhere they cost more than they save. */
const MAX_LOST_SHARE = 0.1

/** Shared by all jobs of a thread: no call finds in it what another has left. */
const encoder = new BatchEncoder()

/**
 * What the rounds of a move take out of a running guest. Example of an idle
 * clone of 131,072 pages:
 *
 *     round  private  read  changed  omitted  sent
 *       1        88    88       88       21     67
 *       2        90    90        5        0      5
 *     last       90    90        2        0      2
 *
 * A private page is read; it travels if its hash differs from what was last
 * seen. One that still equals the template, and was never sent otherwise, is
 * left out: the destination has it, shared. A page that was sent and is
 * private no more holds the template's content again, which the destination
 * must restore; reading it gives just that, so it needs no case of its own.
 */
export class CaptureJob {
  readonly #pages: GuestPages
  readonly #template: TemplateRam
  readonly #hashes: PageHashes
  readonly #slots: Slots
  readonly #dictionary: Uint8Array
  readonly #compression = new CompressionChoice()
  /** Pages the destination holds from us, in any encoding. */
  readonly #sent: PageBitmap
  /** Private pages left out because they equal the template. */
  readonly #omitted: PageBitmap
  /** Pages that the destination has kept from the guest's last stay, and that hold what they held then. */
  readonly #baseline: PageBitmap
  /** What the destination has in other VMs. */
  #siblings: SiblingFilter | null = null
  /** Pages of the round that went as references, in order. */
  #references: PageIndex[] = []
  /** Their references led nowhere. */
  readonly #lost: PageBitmap
  #mayRefer = false
  /** To be looked at in the next round, whatever the tracker says. */
  #again: PageBitmap
  /** Private pages at the last look. */
  #private: PageBitmap
  #isFirst = true
  /** Until the next round begins nothing more is taken. */
  #isOver = true
  #keeping: Generator<void> | null = null
  #round = 0
  #batchPages = MAX_BATCH_PAGES

  private constructor(
    from: GuestPages,
    template: TemplateRam,
    { seed, tablePath, slots, dictionary }: CaptureInit,
  ) {
    this.#slots = slots
    this.#dictionary = dictionary
    this.#pages = from
    this.#template = template
    const { pages } = from
    const table = tablePath === null ? null : readPageTable(tablePath, pages)
    this.#hashes = table ?? new PageHashes(pages, seed)
    this.#baseline = this.#hashes.known.clone()
    this.#again = new PageBitmap(pages)
    this.#lost = new PageBitmap(pages)
    this.#sent = new PageBitmap(pages)
    this.#omitted = new PageBitmap(pages)
    this.#private = new PageBitmap(pages)
  }

  /** @throws MemoryError */
  static async open(init: CaptureInit): Promise<CaptureJob> {
    using cleanup = new DisposableStack()
    const ramPages = init.memoryBytes / PAGE_BYTES
    const extra = new ExtraBlocks(ramPages, init.outgoing?.extraBlocks ?? [])
    const template = cleanup.use(new TemplateRam({ path: init.ramPath, ramPages, extra }))
    const pages =
      init.outgoing === null
        ? new MemoryPages(await GuestMemory.open(init), template)
        : await MigratedPages.open({ template, extra }, { ramPages, ...init.outgoing })
    try {
      const job = new CaptureJob(pages, template, init)
      cleanup.move()
      return job
    } catch (error) {
      await pages.close()
      throw error
    }
  }

  /** The seed of the page hashes; and where the guest came with pages that its last node may have kept, their digest. */
  hashing(): { seed: number; baseline: Uint8Array | null } {
    const baseline = this.#baseline.count === 0 ? null : this.#hashes.digest(this.#baseline)
    return { seed: this.#hashes.seed, baseline }
  }

  /**
   * Before the first round: what the destination has already.
   *
   * @param there.baseline - it has the baseline: its pages count as sent, and travel only where they hold something
   *   else by now
   * @param there.siblings - what it has in other VMs: see sibling-filter.ts
   * @throws MigrationError PROTOCOL_VIOLATION for what is no such filter
   */
  accepted(there: { baseline: boolean; siblings: Uint8Array }): void {
    const siblings = SiblingFilter.decode(there.siblings)
    // What QEMU sends comes once: a page whose reference led nowhere could not be sent as content.
    const mayRefer = this.#pages.memory !== null && !siblings.isEmpty
    this.#siblings = mayRefer ? siblings : null
    if (there.baseline) this.#sent.addAll(this.#baseline)
    else this.#dropBaseline()
  }

  /**
   * After a round: whether each of its references led nowhere, as RoundApplied has it. Those pages go into the next
   * round, as content.
   *
   * @returns how many
   * @throws MigrationError PROTOCOL_VIOLATION
   */
  lose(bits: Uint8Array): number {
    if (bits.length > Math.ceil(this.#references.length / 8)) {
      throw new MigrationError(
        'PROTOCOL_VIOLATION',
        `${bits.length} bytes for ${this.#references.length} references`,
      )
    }
    const lost = this.#references.filter((_, i) => (bits[i >>> 3]! & (1 << (i & 7))) !== 0)
    for (const index of lost) {
      this.#hashes.forget(index)
      this.#lost.add(index)
      this.#again.add(index)
    }
    // The other VMs have moved on: no more is asked of them.
    if (lost.length > this.#references.length * MAX_LOST_SHARE) this.#siblings = null
    return lost.length
  }

  /** The destination has found its pages damaged: what of them was not sent since goes into the next round. */
  loseBaseline(): void {
    this.#again.addAll(this.#baseline)
    this.#dropBaseline()
  }

  #dropBaseline(): void {
    for (const index of this.#baseline.clone()) {
      this.#hashes.forget(index)
      this.#baseline.delete(index)
    }
  }

  /** See GuestMemory.scan(). Bitmaps as their words. */
  async scan(): Promise<{ private: Uint32Array; softDirty: Uint32Array; counts: PageCounts }> {
    const scan = await this.#memory().scan()
    return { private: scan.private.words(), softDirty: scan.softDirty.words(), counts: scan.counts }
  }

  begin(round: RoundInit): void {
    const { pages } = this.#pages
    this.#private = PageBitmap.of(pages, round.private)
    const candidates = PageBitmap.of(pages, round.candidates)
    candidates.addAll(this.#sent.without(this.#private))
    candidates.addAll(this.#again)
    this.#again = new PageBitmap(pages)
    this.#batchPages = round.batchPages
    this.#round = round.round
    this.#pages.begin(candidates)
    this.#isOver = false
    this.#mayRefer = round.mayRefer && this.#siblings !== null
    this.#references = []
  }

  /**
   * The next batch of the round: pages that changed since they were last seen. Possibly none, with more to come.
   *
   * @param slot - where its frame is put
   * @param linkBytesPerMs - what the link was found to carry, see CompressionChoice
   */
  async next(slot: number, linkBytesPerMs: number | null): Promise<CapturedBatch> {
    if (this.#isOver) return { frameBytes: 0, pages: {}, isLast: true }
    await this.#pages.ready()
    // From here on nothing is waited for: the encoder is the thread's.
    const level = this.#compression.choose(linkBytesPerMs)
    encoder.clear()
    const isLast = this.#pages.show(
      (index, content, template) => {
        if (this.#hashes.update(index, content)) this.#take(index, content, template(), level)
      },
      () => this.#batchPages - encoder.pages,
    )
    this.#isOver = isLast
    // Where there is more to come, it comes sooner.
    const groups = encoder.take(this.#isFirst && isLast ? PATIENT : this.#compression)
    this.#isFirst = false
    const frame =
      groups.length === 0 ? null : writePagesFrame(new Uint8Array(this.#slots[slot]!), this.#round, groups)
    return {
      frameBytes: frame?.length ?? 0,
      pages: Object.fromEntries(groups.map(({ encoding, indices }) => [encoding, indices.length])),
      isLast,
    }
  }

  #take(index: PageIndex, content: Uint8Array, template: Uint8Array, level: number): void {
    const encoding = classifyPage(content, template)
    const isTemplate = encoding === 'template' || (encoding === 'zero' && isZeroPage(template))
    if (isTemplate && !this.#sent.has(index)) {
      this.#omitted.add(index)
      return
    }
    this.#sent.add(index)
    this.#omitted.delete(index)
    this.#baseline.delete(index)
    const isDear = encoding === 'raw' || encoding === 'zstd'
    if (isDear && this.#mayRefer && this.#refer(index, content)) return
    encoder.add(index, encoding === 'zstd' && level === 0 ? 'raw' : encoding, content, template)
  }

  /** @returns whether the page goes as a reference to one that the destination seems to have */
  #refer(index: PageIndex, content: Uint8Array): boolean {
    if (this.#lost.has(index) || this.#references.length === MAX_ROUND_REFERENCES) return false
    const hash = referenceHash(content)
    if (!this.#siblings!.has(hash)) return false
    encoder.addReference(index, hash)
    this.#references.push(index)
    return true
  }

  /**
   * Writes what was sent, as it is now: see kept-file.ts. The guest stands still.
   *
   * @returns false until it is written: call it again
   */
  keep(path: string): boolean {
    const holdsZeros = (index: PageIndex) => this.#hashes.holdsZeros(index)
    this.#keeping ??= writingKeptFile(
      path,
      { digest: this.digest(), pages: this.#sent, holdsZeros },
      this.#memory(),
    )
    return this.#keeping.next().done === true
  }

  /** SHA-256 over all pages that the destination holds from us: PageHashes.digest(). */
  digest(): Uint8Array {
    return this.#hashes.digest(this.#sent)
  }

  /** Device state as Finish carries it. */
  compressState(deviceState: Uint8Array): Uint8Array {
    return compressDeviceState(deviceState, this.#dictionary)
  }

  /** After the last round, where QEMU sends the guest: the devices that it sent. */
  sentState(): Uint8Array {
    const { deviceState } = this.#pages
    if (deviceState === null) throw new TypeError('QEMU has sent no devices')
    return deviceState
  }

  /**
   * What the last look found: for the report.
   *
   * @param pageHashesPath - of the template, see countStockPages()
   */
  summary(pageHashesPath: string): CaptureSummary {
    return {
      sent: this.#sent.count,
      // Of what QEMU sends, it doesn't say whether it is private.
      private: this.#pages.memory === null ? this.#sent.count : this.#private.count,
      baseline: this.#baseline.count,
      omitted: this.#omitted.count,
      stockPages: countStockPages(pageHashesPath, this.#private, this.#hashes),
    }
  }

  close(): Promise<void> {
    this.#keeping?.return(undefined)
    this.#template[Symbol.dispose]()
    return this.#pages.close()
  }

  #memory(): GuestMemory {
    const { memory } = this.#pages
    if (memory === null) throw new TypeError("the guest's memory is not read")
    return memory
  }
}
