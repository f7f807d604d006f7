import { decodeBatch, type PageGroup, PageHashes, type ReferencedPages } from '../../codec/index.ts'
import { PAGE_BYTES, type Page, ZERO_PAGE } from '../../domain/page.ts'
import { encodePages, encodeZeroPages, RAM_BLOCK } from '../../qemu/index.ts'
import { TemplateRam } from '../template-ram.ts'
import { transferring } from './transfer.ts'

/** The guest whose pages arrive. */
export interface ArrivalInit {
  /** The template's RAM file here. */
  ramPath: string
  memoryBytes: number
  /** Of the page hashes, as the source chose it. */
  seed: number
}

export interface AppliedBatch {
  /** For IncomingStream.writeEncoded(). */
  stream: Uint8Array
  /** Of each reference, in order, whether it led nowhere. */
  lost: boolean[]
}

const NO_REFERENCES: ReferencedPages = { page: () => null }

/** What comes of the pages of a VM that arrives: decoded, hashed, and written as QEMU reads them. */
export class ArrivalJob {
  readonly #template: TemplateRam
  readonly #hashes: PageHashes
  readonly #pages: number

  private constructor({ ramPath, memoryBytes, seed }: ArrivalInit) {
    this.#pages = memoryBytes / PAGE_BYTES
    this.#hashes = new PageHashes(this.#pages, seed)
    this.#template = new TemplateRam(ramPath)
  }

  static async open(init: ArrivalInit): Promise<ArrivalJob> {
    return new ArrivalJob(init)
  }

  /** @throws CodecError BATCH_MALFORMED */
  apply(groups: readonly PageGroup[]): AppliedBatch {
    const components = { template: this.#template, references: NO_REFERENCES }
    const { pages, lost } = decodeBatch(groups, components, this.#pages)
    for (const { index, content } of pages) this.#hashes.update(index, content)
    const stream = encodeForQemu(pages)
    return transferring({ stream, lost }, [stream])
  }

  /** SHA-256 over all pages that came: PageHashes.digest(). */
  digest(): Uint8Array {
    return this.#hashes.digest(this.#hashes.known)
  }

  close(): void {
    this.#template[Symbol.dispose]()
  }
}

/** Zero pages go as zero records: QEMU then leaves a page alone that is zero already. */
function encodeForQemu(pages: readonly Page[]): Uint8Array {
  const zeros = pages.filter(({ content }) => content === ZERO_PAGE)
  const others = pages.filter(({ content }) => content !== ZERO_PAGE)
  const offsetBytes = ({ index }: Page) => index * PAGE_BYTES
  const chunks = [
    ...(zeros.length === 0 ? [] : encodeZeroPages(RAM_BLOCK, zeros.map(offsetBytes))),
    ...(others.length === 0
      ? []
      : encodePages(
          RAM_BLOCK,
          others.map((page) => ({ offsetBytes: offsetBytes(page), content: page.content })),
        )),
  ]
  // Of its own, to be transferred: Buffer.concat() takes small ones from Node's pool.
  const stream = new Uint8Array(chunks.reduce((sum, { length }) => sum + length, 0))
  let position = 0
  for (const chunk of chunks) {
    stream.set(chunk, position)
    position += chunk.length
  }
  return stream
}
