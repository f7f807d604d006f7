import { hash } from 'node:crypto'
import { existsSync, readSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { TEMPLATE_FILES } from '../../src/domain/template.ts'
import { Squeeze } from './squeeze.ts'

/** Read at a time. */
const READ_BYTES = 1024 ** 2
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES)

/** What a node that lacks a template has to be sent, each page once. */
export interface MissingPages {
  pages: number
  /** zstd level 1 of them. */
  zstdBytes: number
}

/** Bytes of a template's RAM that are not zero: what it takes in memory, once, for all its clones. */
export async function usedRamBytes(ramPath: string): Promise<number> {
  let pages = 0
  await eachPage(ramPath, (page) => {
    if (!page.equals(ZERO_PAGE)) pages++
  })
  return pages * PAGE_BYTES
}

/**
 * Distinct pages of a template, RAM and files, that are neither zero nor in
 * any of the other templates.
 *
 * @param ramPaths - RAM files; the others are beside them
 */
export async function missingPages(ramPath: string, otherRamPaths: readonly string[]): Promise<MissingPages> {
  const known = new Set<string>()
  for (const path of otherRamPaths.flatMap(filesBeside)) {
    await eachPage(path, (page) => known.add(digest(page)))
  }
  const squeeze = new Squeeze()
  for (const path of filesBeside(ramPath)) {
    await eachPage(path, (page) => {
      if (page.equals(ZERO_PAGE)) return
      const name = digest(page)
      if (known.has(name)) return
      known.add(name)
      squeeze.add(page)
    })
  }
  return { pages: squeeze.pages, zstdBytes: squeeze.end() }
}

function filesBeside(ramPath: string): string[] {
  const others = TEMPLATE_FILES.map((file) => join(dirname(ramPath), file))
  return [ramPath, ...others.filter((path) => existsSync(path))]
}

function digest(page: Buffer): string {
  return hash('sha256', page, 'base64')
}

/** The last page of a file is filled up with zeros. */
async function eachPage(path: string, see: (page: Buffer) => void): Promise<void> {
  await using file = await open(path, 'r')
  const bytes = Buffer.alloc(READ_BYTES)
  for (;;) {
    const length = readSync(file.fd, bytes, 0, READ_BYTES, null)
    if (length === 0) return
    bytes.fill(0, length)
    for (let at = 0; at < length; at += PAGE_BYTES) see(bytes.subarray(at, at + PAGE_BYTES))
  }
}
