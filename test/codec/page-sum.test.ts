import { createHash, randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { PageSum } from '../../src/codec/page-sum.ts'
import { PAGE_BYTES } from '../../src/domain/page.ts'

/** The formula, word by word. */
function expected(page: Buffer, key: Buffer): bigint {
  let sum = 0n
  const word = (at: number) => BigInt((page.readUInt32LE(at) + key.readUInt32LE(at)) >>> 0)
  for (let block = 0; block < PAGE_BYTES; block += 32) {
    for (let at = block; at < block + 16; at += 4) sum += word(at) * word(at + 16)
  }
  return BigInt.asIntN(64, sum)
}

test('sums are those of the formula, of whichever seed is asked', () => {
  const seeds = [0, 1, 0xffff_ffff]
  const sums = seeds.map((seed) => new PageSum(seed))
  const pages = [Buffer.alloc(PAGE_BYTES), Buffer.alloc(PAGE_BYTES, 0xff), randomBytes(PAGE_BYTES)]
  for (const page of pages) {
    for (const [i, seed] of seeds.entries()) {
      const seedBytes = Buffer.alloc(4)
      seedBytes.writeUInt32LE(seed)
      const key = createHash('shake256', { outputLength: PAGE_BYTES }).update(seedBytes).digest()
      expect(sums[i]!.of(page)).toBe(expected(page, key))
    }
  }
})
