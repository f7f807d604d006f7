import { hash } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { PageHashes } from '../../codec/index.ts'

/**
 * What the pages of a VM held when it arrived here: the hashes behind the
 * digest that both sides agreed on. The node that it came from keeps the pages
 * themselves for a while; when the VM goes back there, only what differs from
 * this table has to travel.
 *
 *     "DRVTABL2"                     magic, version
 *     u32 seed | u32 pages of the guest | u32 entries
 *     u32 index...                   ascending
 *     u64 hash...                    in the same order
 *     32 bytes                       SHA-256 of all before
 *
 * Little-endian, 12 bytes an entry. It is written without fsync: one that a
 * crash has torn, or that can't be read, isn't valid, and all of the VM travels then.
 */
const MAGIC = Buffer.from('DRVTABL2')
const HEAD_BYTES = MAGIC.length + 12
const ENTRY_BYTES = 12
const CHECKSUM_BYTES = 32

/** @param path - a file that wasn't there, or one to be replaced */
export function writePageTable(path: string, hashes: PageHashes): void {
  const count = hashes.known.count
  const table = Buffer.alloc(HEAD_BYTES + count * ENTRY_BYTES + CHECKSUM_BYTES)
  MAGIC.copy(table)
  table.writeUInt32LE(hashes.seed, MAGIC.length)
  table.writeUInt32LE(hashes.known.pages, MAGIC.length + 4)
  table.writeUInt32LE(count, MAGIC.length + 8)
  let [indexAt, hashAt] = [HEAD_BYTES, HEAD_BYTES + count * 4]
  for (const index of hashes.known) {
    indexAt = table.writeUInt32LE(index, indexAt)
    hashAt = table.writeBigUInt64LE(hashes.hashOf(index), hashAt)
  }
  checksum(table).copy(table, hashAt)
  writeFileSync(`${path}.new`, table, { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

/**
 * @param pages - of the guest
 * @returns null when there is none, or it is not whole, or of another guest
 */
export function readPageTable(path: string, pages: number): PageHashes | null {
  const table = readIfReadable(path)
  if (table === null || table.length < HEAD_BYTES + CHECKSUM_BYTES) return null
  const count = table.readUInt32LE(MAGIC.length + 8)
  const isWhole =
    MAGIC.equals(table.subarray(0, MAGIC.length)) &&
    table.readUInt32LE(MAGIC.length + 4) === pages &&
    table.length === HEAD_BYTES + count * ENTRY_BYTES + CHECKSUM_BYTES &&
    checksum(table).equals(table.subarray(-CHECKSUM_BYTES))
  if (!isWhole) return null
  const hashes = new PageHashes(pages, table.readUInt32LE(MAGIC.length))
  for (let i = 0; i < count; i++) {
    const index = table.readUInt32LE(HEAD_BYTES + i * 4)
    hashes.set(index, table.readBigUInt64LE(HEAD_BYTES + count * 4 + i * 8))
  }
  return hashes
}

function checksum(table: Buffer): Buffer {
  return hash('sha256', table.subarray(0, -CHECKSUM_BYTES), 'buffer')
}

function readIfReadable(path: string): Buffer | null {
  try {
    return readFileSync(path)
  } catch {
    return null
  }
}
