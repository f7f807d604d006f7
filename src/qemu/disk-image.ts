import { open } from 'node:fs/promises'
import { QemuError } from './errors.ts'
import type { DiskFormat } from './launch.ts'

/** docs/interop/qcow2.txt in QEMU's sources. */
const QCOW2_MAGIC = Buffer.from('QFI\xfb', 'latin1')
const HEADER_BYTES = 104
const INCOMPATIBLE_FEATURES = 72
/** Bit 0 dirty and bit 1 corrupt are QEMU's own marks; bit 2: the data is in another file. */
const EXTERNAL_DATA_FILE = 1n << 2n

/**
 * The format of a disk image, by its first bytes.
 *
 * Guessing is dangerous where a guest writes a raw image: it can write a qcow2
 * header that names any file of the node, and read that file on its next start.
 * It is safe here because an image whose header names another file is refused.
 *
 * @param backing - `allowed` for an overlay, whose backing path is never followed
 * @throws QemuError LAUNCH_INVALID
 */
export async function readDiskFormat(
  path: string,
  { backing }: { backing: 'allowed' | 'refused' },
): Promise<DiskFormat> {
  await using file = await open(path)
  const header = Buffer.alloc(HEADER_BYTES)
  const { bytesRead } = await file.read(header, 0, HEADER_BYTES, 0)
  if (bytesRead < 4 || !header.subarray(0, 4).equals(QCOW2_MAGIC)) return 'raw'

  const refuse = (reason: string) => {
    throw new QemuError('LAUNCH_INVALID', `${path}: ${reason}`, { details: { path, reason } })
  }
  const version = header.readUInt32BE(4)
  if (version !== 2 && version !== 3) refuse(`qcow2 of unknown version ${version}`)
  if (header.readBigUInt64BE(8) !== 0n && backing === 'refused')
    refuse('the image needs a backing file; flatten it first')
  if (header.readUInt32BE(32) !== 0) refuse('the image is encrypted')
  if (version === 3 && (header.readBigUInt64BE(INCOMPATIBLE_FEATURES) & EXTERNAL_DATA_FILE) !== 0n) {
    refuse('the image keeps its data in another file')
  }
  return 'qcow2'
}
