import { SECTION } from './stream-format.ts'

const NAME = Buffer.from('\x08kvmclock')
const INSTANCE_AND_VERSION = Buffer.from([0, 0, 0, 0, 0, 0, 0, 1])
const SUBSECTION_PREFIX = 'kvmclock/'

/**
 * Moves the guest's clock on by the time it was stopped: `stop` freezes
 * kvmclock, and the guest would lose the blackout on each move. The section
 * (hw/i386/kvm/clock.c in QEMU's sources):
 *
 *     04 be32 id  08 "kvmclock"  be32 0  be32 1      FULL section, instance 0, version 1
 *     be64 clock                                     nanoseconds
 *     05 u8 length "kvmclock/..." be32 1 u8 flag     subsections, each one boolean; may be absent
 *     7e be32 id                                     footer
 *
 * Changes `deviceState` in place and returns it; without such a section (TCG
 * has none) it stays as it is. A place that only looks like one is passed over.
 *
 * @param deviceState - what `QemuProcess.saveDeviceState` returned
 */
export function advanceKvmclock(deviceState: Uint8Array, elapsedNs: bigint): Uint8Array {
  const bytes = Buffer.from(deviceState.buffer, deviceState.byteOffset, deviceState.byteLength)
  for (let name = bytes.indexOf(NAME); name >= 0; name = bytes.indexOf(NAME, name + 1)) {
    const clock = findClock(bytes, name)
    if (clock === null) continue
    bytes.writeBigUInt64BE(BigInt.asUintN(64, bytes.readBigUInt64BE(clock) + elapsedNs), clock)
    break
  }
  return deviceState
}

/** Position of the clock in the section whose name stands at `name`, or null when it isn't that section. */
function findClock(bytes: Buffer, name: number): number | null {
  const start = name - 5
  const clock = name + NAME.length + INSTANCE_AND_VERSION.length
  if (start < 0 || bytes[start] !== SECTION.full) return null
  if (!bytes.subarray(name + NAME.length, clock).equals(INSTANCE_AND_VERSION)) return null
  let position = clock + 8
  while (bytes[position] === SECTION.subsection) {
    const nameEnd = position + 2 + (bytes[position + 1] ?? 0)
    if (!bytes.toString('latin1', position + 2, nameEnd).startsWith(SUBSECTION_PREFIX)) return null
    position = nameEnd + 4 + 1
  }
  const hasFooter =
    bytes[position] === SECTION.footer &&
    bytes.subarray(position + 1, position + 5).equals(bytes.subarray(start + 1, name))
  return hasFooter ? clock : null
}
