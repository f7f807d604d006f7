import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { CodecError } from './errors.ts'

/** 78 KB for a q35 machine; a virtio-gpu or many NICs stay far below this. */
export const MAX_DEVICE_STATE_BYTES = 16 * 1024 * 1024

/**
 * Device state, compressed with the template's as dictionary: both sides have
 * it, and most of it is the same (78 KB become about 250 bytes, in 0.5 ms).
 * All of the template's state file, ROMs too, would take four times as long to
 * look through. Level 1 would take half of that and find little in a dictionary
 * larger than its hash table. The frame carries a checksum: with another
 * dictionary, zstd would decompress to other bytes of the right length and say
 * nothing.
 */
export function compressDeviceState(deviceState: Uint8Array, dictionary: Uint8Array): Buffer {
  return zstdCompressSync(deviceState, { dictionary, params: { [constants.ZSTD_c_checksumFlag]: 1 } })
}

/**
 * @param bytes - length of the device state, as the peer gives it
 * @throws CodecError DEVICE_STATE_MALFORMED
 */
export function decompressDeviceState(data: Uint8Array, dictionary: Uint8Array, bytes: number): Buffer {
  if (bytes > MAX_DEVICE_STATE_BYTES) {
    throw new CodecError(
      'DEVICE_STATE_MALFORMED',
      `${bytes} bytes of device state, at most ${MAX_DEVICE_STATE_BYTES}`,
    )
  }
  let deviceState: Buffer
  try {
    deviceState = zstdDecompressSync(data, { dictionary, maxOutputLength: Math.max(bytes, 1) })
  } catch (cause) {
    throw new CodecError('DEVICE_STATE_MALFORMED', 'device state does not decompress', { cause })
  }
  if (deviceState.length !== bytes) {
    throw new CodecError(
      'DEVICE_STATE_MALFORMED',
      `${deviceState.length} bytes of device state, not ${bytes}`,
    )
  }
  return deviceState
}
