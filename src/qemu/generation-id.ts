import { closeSync, openSync, writeSync } from 'node:fs'
import { type FileHandle, open, readFile } from 'node:fs/promises'
import { QemuError } from './errors.ts'

/**
 * Gives a QEMU that runs, and that no guest is in yet, another vmgenid.
 *
 * QEMU takes it on the command line alone: the property is refused once the
 * device is realized, the device can't be plugged, and the preconfig stage
 * plugs nothing (tried with 7.2 and 10.0). It keeps the 16 bytes in two places
 * of its heap (hw/acpi/vmgenid.c; the same from 2.9 on):
 *
 *     VmGenIdState.guid            as written, big-endian      query-vm-generation-id; into guest RAM after a load
 *     fw_cfg etc/vmgenid_guid      first three fields swapped  into guest RAM by the firmware, at a reset
 *
 * Both are plain bytes that nothing is derived from. Written through
 * /proc/PID/mem, they are what a launch with that id would have made, for as
 * long as QEMU lives. They are found by their content: 128 random bits that
 * this agent chose stand in a process once for each place.
 */

const ID_BYTES = 16
/** Of a heap, looked through at a time. */
const PIECE_BYTES = 1024 * 1024

// start-end perms offset major:minor inode path: writable private memory without a file.
const OWN_MEMORY = /^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0 *(?:\[(?:heap|anon:.*)\])?$/

/** Host addresses in one QEMU. */
export interface GenerationIdPlaces {
  device: number
  firmware: number
}

/**
 * Looks for the vmgenid of a QEMU that was started with it: some 70 MiB are read, 60 ms.
 *
 * @param id - random, and of this launch alone
 * @throws QemuError GENERATION_ID_NOT_FOUND when it isn't in each place once
 */
export async function findGenerationId(pid: number, id: string): Promise<GenerationIdPlaces> {
  const { device, firmware } = encodings(id)
  const found = { device: [] as number[], firmware: [] as number[] }
  await using memory = await open(`/proc/${pid}/mem`, 'r')
  for await (const { addressBytes, bytes } of ownMemory(pid, memory)) {
    found.device.push(...positions(bytes, device).map((at) => addressBytes + at))
    found.firmware.push(...positions(bytes, firmware).map((at) => addressBytes + at))
  }
  const [inDevice, inFirmware] = [found.device[0], found.firmware[0]]
  if (
    inDevice !== undefined &&
    inFirmware !== undefined &&
    found.device.length + found.firmware.length === 2
  ) {
    return { device: inDevice, firmware: inFirmware }
  }
  const places = { device: found.device.length, firmware: found.firmware.length }
  throw new QemuError(
    'GENERATION_ID_NOT_FOUND',
    `QEMU (pid ${pid}) has its vmgenid ${places.device} and ${places.firmware} times in its memory, not once each`,
    { details: { pid, ...places } },
  )
}

/**
 * Before anything was loaded. What QEMU makes of it, `QemuProcess.generationId` tells. Synchronous on purpose:
 * 32 bytes take microseconds, the way through the thread pool more.
 */
export function writeGenerationId(pid: number, places: GenerationIdPlaces, id: string): void {
  const { device, firmware } = encodings(id)
  const memory = openSync(`/proc/${pid}/mem`, 'r+')
  try {
    writeSync(memory, device, 0, ID_BYTES, places.device)
    writeSync(memory, firmware, 0, ID_BYTES, places.firmware)
  } finally {
    closeSync(memory)
  }
}

/** Pieces overlap by what an id may stick out of one. */
async function* ownMemory(
  pid: number,
  memory: FileHandle,
): AsyncGenerator<{ addressBytes: number; bytes: Buffer }> {
  const buffer = Buffer.alloc(PIECE_BYTES + ID_BYTES - 1)
  for (const line of (await readFile(`/proc/${pid}/maps`, 'utf8')).split('\n')) {
    const [, start, end] = OWN_MEMORY.exec(line) ?? []
    if (start === undefined || end === undefined) continue
    const endBytes = Number.parseInt(end, 16)
    for (let at = Number.parseInt(start, 16); at < endBytes; at += PIECE_BYTES) {
      const length = Math.min(buffer.length, endBytes - at)
      const { bytesRead } = await memory.read(buffer, 0, length, at)
      yield { addressBytes: at, bytes: buffer.subarray(0, bytesRead) }
    }
  }
}

/** A hit in the overlap belongs to the piece that it begins in. */
function positions(bytes: Buffer, word: Buffer): number[] {
  const found: number[] = []
  for (let at = bytes.indexOf(word); at >= 0 && at < PIECE_BYTES; at = bytes.indexOf(word, at + 1))
    found.push(at)
  return found
}

/** RFC 4122 bytes, and Microsoft's: the first three fields little-endian. */
function encodings(id: string): { device: Buffer; firmware: Buffer } {
  const device = Buffer.from(id.replaceAll('-', ''), 'hex')
  const firmware = Buffer.from(device)
  firmware.subarray(0, 4).reverse()
  firmware.subarray(4, 6).reverse()
  firmware.subarray(6, 8).reverse()
  return { device, firmware }
}
