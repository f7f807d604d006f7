import { join } from 'node:path'
import { CHUNK_BYTES } from '../domain/page.ts'
import { TEMPLATE_FILES, type TemplateFile, type TemplateManifest } from '../domain/template.ts'

/** What a template's chunks come from: its RAM, or one of its files. */
export type TemplatePart = 'ram' | TemplateFile

/** Where a part lies in the row of chunks that a template is (`template.proto`). */
export interface PartSpan {
  part: TemplatePart
  firstChunk: number
  /** One beyond its last. */
  endChunk: number
  /** The rest of the last chunk reads as zeros. */
  sizeBytes: number
}

/** Files in a template's directory. Those from `state` to `disk` have the names of TEMPLATE_FILES. */
export interface DraftFiles extends Record<TemplatePart, string> {
  dir: string
  /** Canonical bytes of the manifest. */
  manifest: string
  /** 32 bytes per page, of all chunks: found by when others fetch, and what lets `verify` name damaged pages. */
  pageHashes: string
}

/** Files of a sealed template, absolute; null where the template has none. */
export interface TemplateFiles extends Omit<DraftFiles, 'initrd' | 'disk'> {
  initrd: string | null
  disk: string | null
}

export function draftFiles(dir: string): DraftFiles {
  return {
    dir,
    manifest: join(dir, 'manifest'),
    ram: join(dir, 'ram'),
    state: join(dir, 'state'),
    kernel: join(dir, 'kernel'),
    initrd: join(dir, 'initrd'),
    disk: join(dir, 'disk'),
    pageHashes: join(dir, 'page-hashes'),
  }
}

export function sealedFiles(dir: string, { sizes }: Pick<TemplateManifest, 'sizes'>): TemplateFiles {
  const files = draftFiles(dir)
  return {
    ...files,
    initrd: sizes.initrd === 0 ? null : files.initrd,
    disk: sizes.disk === 0 ? null : files.disk,
  }
}

/** What a template's extent follows from. */
export type TemplateExtent = Pick<TemplateManifest, 'machine' | 'sizes'>

/** The parts that a template has, in the order of their chunks. */
export function partSpans({ machine, sizes }: TemplateExtent): PartSpan[] {
  const parts: [part: TemplatePart, sizeBytes: number][] = [
    ['ram', machine.memoryBytes],
    ...TEMPLATE_FILES.map((file): [TemplatePart, number] => [file, sizes[file]]),
  ]
  const spans: PartSpan[] = []
  let firstChunk = 0
  for (const [part, sizeBytes] of parts) {
    if (sizeBytes === 0) continue
    const endChunk = firstChunk + Math.ceil(sizeBytes / CHUNK_BYTES)
    spans.push({ part, firstChunk, endChunk, sizeBytes })
    firstChunk = endChunk
  }
  return spans
}

export function countChunks(extent: TemplateExtent): number {
  return partSpans(extent).at(-1)?.endChunk ?? 0
}
