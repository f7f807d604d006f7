import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { readDiskFormat } from '../../src/qemu/index.ts'
import { temporaryDirectory } from '../support/qemu-guest.ts'

/** A qcow2 header (docs/interop/qcow2.txt in QEMU's sources). */
function qcow2({ version = 3, backingOffset = 0n, encryption = 0, incompatible = 0n } = {}): Buffer {
  const header = Buffer.alloc(512)
  header.write('QFI\xfb', 0, 'latin1')
  header.writeUInt32BE(version, 4)
  header.writeBigUInt64BE(backingOffset, 8)
  header.writeUInt32BE(encryption, 32)
  header.writeBigUInt64BE(incompatible, 72)
  return header
}

async function image(content: Uint8Array): Promise<string> {
  const dir = await temporaryDirectory()
  onTestFinished(() => dir[Symbol.asyncDispose]())
  const path = join(dir.path, 'image')
  await writeFile(path, content)
  return path
}

test.each([
  ['qcow2', qcow2()],
  ['qcow2', qcow2({ version: 2, incompatible: 4n })],
  ['qcow2', qcow2({ incompatible: 1n })],
  ['raw', Buffer.alloc(512)],
  ['raw', Buffer.from('QFI')],
  ['raw', Buffer.alloc(0)],
])('%s', async (format, content) => {
  expect(await readDiskFormat(await image(content), { backing: 'refused' })).toBe(format)
})

test('the path in the header of an overlay is not an obstacle, in that of a base it is', async () => {
  const path = await image(qcow2({ backingOffset: 512n }))
  expect(await readDiskFormat(path, { backing: 'allowed' })).toBe('qcow2')
  await expect(readDiskFormat(path, { backing: 'refused' })).rejects.toMatchObject({ code: 'LAUNCH_INVALID' })
})

test.each([
  ['data in another file', qcow2({ incompatible: 4n })],
  ['encrypted', qcow2({ encryption: 1 })],
  ['of an unknown version', qcow2({ version: 4 })],
])('an image that names or needs more than itself is refused: %s', async (_, content) => {
  const path = await image(content)
  await expect(readDiskFormat(path, { backing: 'allowed' })).rejects.toMatchObject({ code: 'LAUNCH_INVALID' })
})
