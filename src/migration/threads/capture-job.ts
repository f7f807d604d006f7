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
import { PageBitmap, type PageRun } from '../../domain/bitmap.ts'
import { isZeroPage, PAGE_BYTES, type PageIndex } from '../../domain/page.ts'
import type { PageCounts } from '../../domain/vm.ts'
import { type GuestLocation, GuestMemory } from '../../memory/index.ts'
import { writePagesFrame } from '../../wire/pages-frame-writer.ts'
import { MigrationError } from '../errors.ts'
import { writingKeptFile } from '../kept/kept-file.ts'
import { readPageTable } from '../kept/page-table.ts'
import { referenceHash } from '../siblings/hashed-pages.ts'
import { SiblingFilter } from '../siblings/sibling-filter.ts'
import { countStockPages } from '../stock-equivalent.ts'
import { TemplateRam } from '../template-ram.ts'
import type { Slots } from './slots.ts'

/** The guest whose pages are captured. */
export interface CaptureInit extends GuestLocation {
  /** Of the page hashes, where no table says which. */
  seed: number
  /** Where the table of the guest's arrival here would be: see page-table.ts. */
  tablePath: string
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

/** As much is looked at in one call, even where nothing has changed: 5 ms, then other jobs have their turn. */
const MAX_LOOK_PAGES = 4096

/** Of a round's references: with more that lead nowhere they cost more than they save. */
const MAX_LOST_SHARE = 0.1

/** Shared by all jobs of a thread: no call finds in them what another has left. */
const contents = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)
const templates = Buffer.alloc(MAX_BATCH_PAGES * PAGE_BYTES)
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
  readonly #memory: GuestMemory
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
  /** To be looked at in this round, from #next on. */
  #candidates: PageBitmap
  #next: PageIndex = 0
  #isFirst = true
  #keeping: Generator<void> | null = null
  #round = 0
  #batchPages = MAX_BATCH_PAGES

  private constructor(
    memory: GuestMemory,
    template: TemplateRam,
    { seed, tablePath, slots, dictionary }: CaptureInit,
  ) {
    this.#slots = slots
    this.#dictionary = dictionary
    this.#memory = memory
    this.#template = template
    const { pages } = memory
    this.#hashes = readPageTable(tablePath, pages) ?? new PageHashes(pages, seed)
    this.#baseline = this.#hashes.known.clone()
    this.#again = new PageBitmap(pages)
    this.#lost = new PageBitmap(pages)
    this.#sent = new PageBitmap(pages)
    this.#omitted = new PageBitmap(pages)
    this.#private = new PageBitmap(pages)
    this.#candidates = new PageBitmap(pages)
  }

  /** @throws MemoryError */
  static async open(init: CaptureInit): Promise<CaptureJob> {
    const memory = await GuestMemory.open(init)
    try {
      return new CaptureJob(memory, new TemplateRam(init.ramPath), init)
    } catch (error) {
      await memory.close()
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
    this.#siblings = siblings.isEmpty ? null : siblings
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
    const scan = await this.#memory.scan()
    return { private: scan.private.words(), softDirty: scan.softDirty.words(), counts: scan.counts }
  }

  begin(round: RoundInit): void {
    const { pages } = this.#memory
    this.#private = PageBitmap.of(pages, round.private)
    this.#candidates = PageBitmap.of(pages, round.candidates)
    this.#candidates.addAll(this.#sent.without(this.#private))
    this.#candidates.addAll(this.#again)
    this.#again = new PageBitmap(pages)
    this.#batchPages = round.batchPages
    this.#round = round.round
    this.#next = 0
    this.#mayRefer = round.mayRefer && this.#siblings !== null
    this.#references = []
  }

  /**
   * The next batch of the round: pages that changed since they were last seen. Possibly none, with more to come.
   *
   * @param slot - where its frame is put
   * @param linkBytesPerMs - what the link was found to carry, see CompressionChoice
   */
  next(slot: number, linkBytesPerMs: number | null): CapturedBatch {
    const level = this.#compression.choose(linkBytesPerMs)
    encoder.clear()
    let looked = 0
    let run: PageRun | null = null
    while (encoder.pages < this.#batchPages && looked < MAX_LOOK_PAGES) {
      run = this.#candidates.runFrom(this.#next, this.#batchPages - encoder.pages)
      if (run === null) break
      this.#look(run, level)
      this.#next = run.end
      looked += run.end - run.first
    }
    const isLast = run === null && this.#candidates.runFrom(this.#next, 1) === null
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

  /** Reads a run of pages and takes what changed into the batch. */
  #look(run: PageRun, level: number): void {
    this.#memory.read(run, contents)
    let hasTemplates = false
    for (let index = run.first; index < run.end; index++) {
      const slot = (index - run.first) * PAGE_BYTES
      const content = contents.subarray(slot, slot + PAGE_BYTES)
      if (!this.#hashes.update(index, content)) continue
      if (!hasTemplates) this.#template.read(run, templates)
      hasTemplates = true
      this.#take(index, content, templates.subarray(slot, slot + PAGE_BYTES), level)
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
    if (this.#lost.has(index)) return false
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
      this.#memory,
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

  /**
   * What the last look found: for the report.
   *
   * @param pageHashesPath - of the template, see countStockPages()
   */
  summary(pageHashesPath: string): CaptureSummary {
    return {
      sent: this.#sent.count,
      private: this.#private.count,
      baseline: this.#baseline.count,
      omitted: this.#omitted.count,
      stockPages: countStockPages(pageHashesPath, this.#private, this.#hashes),
    }
  }

  close(): Promise<void> {
    this.#keeping?.return(undefined)
    this.#template[Symbol.dispose]()
    return this.#memory.close()
  }
}
