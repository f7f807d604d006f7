import { SECTION, STREAM_MAGIC, STREAM_VERSION } from './stream-format.ts'
import { StreamInput, type StreamRecord, streamRecords } from './stream-records.ts'

/** A q35's devices have 80 KB, QEMU's description of them as much; a virtio device with a full queue adds some. */
const MAX_DEVICES_BYTES = 64 * 1024 * 1024

/**
 * Reads what a running QEMU writes on `migrate`: its RAM as it is sent, then the
 * devices.
 *
 *     feed → next... → null → feed → next... → null → end → the devices
 *
 * @throws QemuError OUTGOING_MALFORMED (details: position), from all of its methods
 */
export class OutgoingReader {
  readonly #input: StreamInput = new StreamInput('OUTGOING_MALFORMED')
  readonly #records = streamRecords(this.#input)
  #isPastRam = false
  #devices: Buffer[] = []
  #devicesBytes = 0

  /** Takes over `chunk`: it must not change before `next` has returned null. */
  feed(chunk: Uint8Array): void {
    if (this.#isPastRam) this.#keep(Buffer.from(chunk))
    else this.#input.feed(chunk)
  }

  /** The next record of RAM; null where more is needed, or where RAM has ended. Contents are valid until the next call. */
  next(): StreamRecord | null {
    if (this.#isPastRam) return null
    const { done, value } = this.#records.next()
    if (!done) return value
    this.#isPastRam = true
    this.#keep(Buffer.from(this.#input.rest()))
    return null
  }

  /** QEMU has closed the stream. @returns the devices, as `QemuProcess.saveDeviceState` does */
  end(): Buffer {
    if (!this.#isPastRam) this.#input.fail('it ends too early')
    const sections = devicesOf(Buffer.concat(this.#devices))
    if (sections === null) this.#input.fail('devices without their description')
    return Buffer.concat([DEVICE_STATE_HEADER, sections])
  }

  #keep(chunk: Buffer): void {
    this.#devicesBytes += chunk.length
    if (this.#devicesBytes > MAX_DEVICES_BYTES) this.#input.fail('devices without an end')
    this.#devices.push(chunk)
  }
}

/**
 * Sections of devices don't say how long they are, but the description behind
 * them does, and being JSON it has no byte 0: the last place where an EOF and a
 * length that fits the rest stand is the end.
 *
 * @returns the sections, EOF included
 */
function devicesOf(tail: Buffer): Buffer | null {
  for (let at = tail.length - 6; at >= 0; at--) {
    if (tail[at] !== SECTION.eof || tail[at + 1] !== SECTION.description) continue
    if (tail.readUInt32BE(at + 2) === tail.length - at - 6) return tail.subarray(0, at + 1)
  }
  return null
}

const DEVICE_STATE_HEADER = Buffer.concat([STREAM_MAGIC, Buffer.from([0, 0, 0, STREAM_VERSION])])

/** Name, instance 0 and version 1 of the section in which QEMU saves the run state (migration/global_state.c). */
const GLOBAL_STATE = Buffer.concat([Buffer.from('\x0bglobalstate'), Buffer.from([0, 0, 0, 0, 0, 0, 0, 1])])

/** The run state that QEMU saved with the devices, such as `running`; null where it isn't there. */
export function savedRunState(deviceState: Uint8Array): string | null {
  const bytes = Buffer.from(deviceState.buffer, deviceState.byteOffset, deviceState.byteLength)
  const at = bytes.indexOf(GLOBAL_STATE)
  if (at < 0) return null
  // The text's length, then a field of 100 bytes.
  const begin = at + GLOBAL_STATE.length + 4
  const end = bytes.indexOf(0, begin)
  return end < 0 ? null : bytes.toString('latin1', begin, end)
}
