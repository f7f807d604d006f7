import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { PageHashes } from '../../../src/codec/index.ts'
import { PAGE_BYTES, type Page, ZERO_PAGE } from '../../../src/domain/page.ts'
import {
  KeptFile,
  keptFileBytes,
  readKeptHead,
  writingKeptFile,
} from '../../../src/migration/kept/kept-file.ts'
import { KeptPages } from '../../../src/migration/kept/kept-pages.ts'
import { readPageTable, writePageTable } from '../../../src/migration/kept/page-table.ts'

const GUEST_PAGES = 2048
const SEED = 7

let dir: string
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drover-kept-'))
})
afterEach(() => rm(dir, { recursive: true, force: true }))

/** A guest of which every third page was sent, every fifth of these all zeros. */
function guest(): { ram: Buffer; hashes: PageHashes } {
  const ram = randomBytes(GUEST_PAGES * PAGE_BYTES)
  const hashes = new PageHashes(GUEST_PAGES, SEED)
  for (let index = 0; index < GUEST_PAGES; index += 3) {
    const page = ram.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES)
    if (index % 5 === 0) page.fill(0)
    hashes.update(index, index % 5 === 0 ? ZERO_PAGE : page)
  }
  return { ram, hashes }
}

function keep(path: string): { ram: Buffer; hashes: PageHashes; digest: Uint8Array } {
  const { ram, hashes } = guest()
  const digest = hashes.digest(hashes.known)
  const sent = { digest, pages: hashes.known, holdsZeros: (index: number) => hashes.holdsZeros(index) }
  const read = ({ first, end }: { first: number; end: number }, into: Uint8Array) =>
    into.set(ram.subarray(first * PAGE_BYTES, end * PAGE_BYTES))
  for (const _ of writingKeptFile(path, sent, { read }));
  return { ram, hashes, digest }
}

/** What is kept, where it is sound. */
function open(path: string, digest: Uint8Array, pages = GUEST_PAGES): KeptFile | null {
  const file = KeptFile.open(path, digest)
  if (file === null) return null
  const checking = file.checking({ seed: SEED, pages, digest })
  for (;;) {
    const { done, value } = checking.next()
    if (done !== true) continue
    if (value) return file
    file[Symbol.dispose]()
    return null
  }
}

test('pages come back as they were kept, zeros without taking space', () => {
  const path = join(dir, 'vm')
  const { ram, hashes, digest } = keep(path)
  using file = open(path, digest)!
  const pages: Page[] = []
  for (const batch of file.pages()) {
    for (const { index, content } of batch) pages.push({ index, content: Uint8Array.from(content) })
  }
  expect(pages.map(({ index }) => index)).toEqual([...hashes.known])
  for (const { index, content } of pages) {
    expect(Buffer.compare(content, ram.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES))).toBe(0)
  }
  expect(readKeptHead(path)).toMatchObject({ pages: hashes.known.count })
  expect(statSync(path).size).toBeLessThan(keptFileBytes(hashes.known.count) * 0.85)
  expect(existsSync(`${path}.new`)).toBe(false)
})

test.each<[string, (bytes: Buffer) => Buffer]>([
  ['a flipped bit of a page', (bytes) => flip(bytes, bytes.length - 1)],
  ['a flipped bit of an index', (bytes) => flip(bytes, 60)],
  ['another magic', (bytes) => flip(bytes, 0)],
  ['a lost page', (bytes) => bytes.subarray(0, -PAGE_BYTES)],
  ['a torn page', (bytes) => bytes.subarray(0, -100)],
  ['nothing but a head', (bytes) => bytes.subarray(0, 44)],
  ['half a head', (bytes) => bytes.subarray(0, 20)],
  ['nothing', () => Buffer.alloc(0)],
  [
    'more pages than there is room for',
    (bytes) => Buffer.concat([bytes.subarray(0, 40), Buffer.alloc(4, 0xff), bytes.subarray(44)]),
  ],
])('a kept file with %s is as good as none', (_, damage) => {
  const path = join(dir, 'vm')
  const { digest } = keep(path)
  writeFileSync(path, damage(readFileSync(path)))
  expect(open(path, digest)).toBeNull()
})

test('pages of another stay, or of another guest, are not these', () => {
  const path = join(dir, 'vm')
  const { digest } = keep(path)
  expect(open(path, randomBytes(32))).toBeNull()
  expect(open(join(dir, 'nobody'), digest)).toBeNull()
  expect(open(path, digest, 16)).toBeNull()
})

test('what the disk does not give back is as good as none', () => {
  // EIO: nothing is mapped there.
  const unreadable = '/proc/self/mem'
  expect(readKeptHead(unreadable)).toBeNull()
  expect(KeptFile.open(unreadable, randomBytes(32))).toBeNull()
  expect(readPageTable(unreadable, GUEST_PAGES)).toBeNull()
})

test('a disk that fails while pages are looked at has none', () => {
  const path = join(dir, 'vm')
  const { digest } = keep(path)
  const file = KeptFile.open(path, digest)!
  file[Symbol.dispose]()
  // EBADF is as good as EIO.
  expect(file.checking({ seed: SEED, pages: GUEST_PAGES, digest }).next()).toEqual({
    done: true,
    value: false,
  })
})

test('writing that fails leaves no file, and the one before it', () => {
  const path = join(dir, 'vm')
  const { hashes, digest } = keep(path)
  const sent = { digest, pages: hashes.known, holdsZeros: () => false }
  const read = () => {
    throw new Error('the guest is gone')
  }
  expect(() => writingKeptFile(path, sent, { read }).next()).toThrow('the guest is gone')
  expect(existsSync(`${path}.new`)).toBe(false)
  using file = open(path, digest)
  expect(file).not.toBeNull()
})

test('writing that is given up leaves no file', () => {
  const path = join(dir, 'vm')
  const { ram, hashes, digest } = keep(join(dir, 'other'))
  const sent = { digest, pages: hashes.known, holdsZeros: () => false }
  const read = ({ first, end }: { first: number; end: number }, into: Uint8Array) =>
    into.set(ram.subarray(first * PAGE_BYTES, end * PAGE_BYTES))
  const writing = writingKeptFile(path, sent, { read })
  expect(writing.next().done).toBe(false)
  expect(existsSync(`${path}.new`)).toBe(true)
  writing.return(undefined)
  expect(existsSync(path)).toBe(false)
  expect(existsSync(`${path}.new`)).toBe(false)
})

test('a table of hashes comes back as it was', () => {
  const path = join(dir, 'table')
  const { hashes } = guest()
  writePageTable(path, hashes)
  const read = readPageTable(path, GUEST_PAGES)!
  expect(read.seed).toBe(SEED)
  expect([...read.known]).toEqual([...hashes.known])
  expect(Buffer.compare(read.digest(read.known), hashes.digest(hashes.known))).toBe(0)
  expect(readPageTable(path, GUEST_PAGES * 2)).toBeNull()
  expect(readPageTable(join(dir, 'nobody'), GUEST_PAGES)).toBeNull()
})

test.each<[string, (bytes: Buffer) => Buffer]>([
  ['a flipped bit', (bytes) => flip(bytes, 100)],
  ['a lost end', (bytes) => bytes.subarray(0, -1)],
  ['nothing in it', () => Buffer.alloc(0)],
])('a table with %s is as good as none', (_, damage) => {
  const path = join(dir, 'table')
  writePageTable(path, guest().hashes)
  writeFileSync(path, damage(readFileSync(path)))
  expect(readPageTable(path, GUEST_PAGES)).toBeNull()
})

test('within its limit a node keeps what left last', async () => {
  const kept = new KeptPages({ dataDir: dir, limitBytes: keptFileBytes(1000) })
  await kept.start(() => true)
  const leave = async (id: string, pages: number, atS: number) => {
    using room = await kept.makeRoom(id, pages)
    if (room === null) return
    writeFileSync(kept.pagesPath(id), Buffer.alloc(keptFileBytes(pages)))
    utimesSync(kept.pagesPath(id), atS, atS)
  }
  await leave('first', 400, 1)
  await leave('second', 400, 2)
  await leave('third', 400, 3)
  expect(await readdir(join(dir, 'kept'))).toEqual(expect.arrayContaining(['second', 'third']))
  expect(existsSync(kept.pagesPath('first'))).toBe(false)
  await leave('too large', 1001, 4)
  expect(existsSync(kept.pagesPath('too large'))).toBe(false)
  expect(existsSync(kept.pagesPath('third'))).toBe(true)
  await kept.arrived('third')
  expect(await readdir(join(dir, 'kept'))).toEqual(['second'])
})

test('VMs that leave at a time stay within the limit together', async () => {
  const kept = new KeptPages({ dataDir: dir, limitBytes: keptFileBytes(1000) })
  await kept.start(() => true)
  const [first, second] = await Promise.all(['first', 'second'].map((id) => kept.makeRoom(id, 600)))
  expect([first, second].filter((room) => room === null)).toHaveLength(1)
  for (const room of [first, second]) room?.[Symbol.dispose]()
  using again = await kept.makeRoom('second', 600)
  expect(again).not.toBeNull()
})

test('what was not written to its end goes with the room made for it', async () => {
  const kept = new KeptPages({ dataDir: dir, limitBytes: 2 ** 30 })
  await kept.start(() => true)
  const room = await kept.makeRoom('vm', 10)
  writeFileSync(`${kept.pagesPath('vm')}.new`, 'x')
  room![Symbol.dispose]()
  expect(await readdir(join(dir, 'kept'))).toEqual([])
})

test('what is kept gives way to others at once, but for what is being written', async () => {
  const kept = new KeptPages({ dataDir: dir, limitBytes: 2 ** 30 })
  await kept.start(() => true)
  expect(kept.giveWay()).toBe(false)
  for (const name of ['a', 'b', 'c.new']) writeFileSync(kept.pagesPath(name), Buffer.alloc(1000))
  expect(kept.bytes()).toEqual({ keptBytes: 3000, limitBytes: 2 ** 30 })
  expect(kept.giveWay()).toBe(true)
  expect(await readdir(join(dir, 'kept'))).toEqual(['c.new'])
})

test('a limit of 0 keeps nothing, and what was kept before goes', async () => {
  await mkdir(join(dir, 'kept'))
  writeFileSync(join(dir, 'kept', 'vm'), 'x')
  const kept = new KeptPages({ dataDir: dir, limitBytes: 0 })
  await kept.start(() => true)
  expect(await kept.makeRoom('vm', 1)).toBeNull()
  expect(await readdir(join(dir, 'kept'))).toEqual([])
})

test('a start removes what a crash left half-written, and tables of VMs that are gone', async () => {
  const kept = new KeptPages({ dataDir: dir, limitBytes: 2 ** 30 })
  await kept.start(() => true)
  for (const path of [
    kept.pagesPath('a'),
    `${kept.pagesPath('b')}.new`,
    kept.tablePath('c'),
    kept.tablePath('d'),
  ]) {
    writeFileSync(path, 'x')
  }
  await new KeptPages({ dataDir: dir, limitBytes: 2 ** 30 }).start((id) => id === 'c')
  expect(await readdir(join(dir, 'kept'))).toEqual(['a'])
  expect(await readdir(join(dir, 'arrived'))).toEqual(['c'])
})

test('tables of VMs that were removed go when another VM arrives', async () => {
  const here = new Set(['removed', 'stays', 'comes'])
  const kept = new KeptPages({ dataDir: dir, limitBytes: 2 ** 30 })
  await kept.start((id) => here.has(id))
  for (const id of ['removed', 'stays', 'comes.new']) writeFileSync(kept.tablePath(id), 'x')
  here.delete('removed')
  await kept.arrived('comes')
  expect(await readdir(join(dir, 'arrived'))).toEqual(expect.arrayContaining(['stays', 'comes.new']))
  expect(existsSync(kept.tablePath('removed'))).toBe(false)
})

function flip(bytes: Buffer, at: number): Buffer {
  bytes[at]! ^= 1
  return bytes
}
