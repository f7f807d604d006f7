import { QemuError } from './errors.ts'
import { readStateFile } from './state-file.ts'
import { encodeDevices, isDeviceState, SECTION, STREAM_HEADER_BYTES } from './stream-format.ts'

/**
 * The state file of a template that is made of a running clone: what `migrate`
 * with x-ignore-shared would have written, had the clone's RAM been a shared
 * file (layout: stream-format.ts).
 *
 *     of the template that the VM is a clone of, up to the end of its RAM section
 *         51 45 56 4d ... 07 ... machine type, capabilities
 *         01 ... 03 "ram" ...      the list of blocks, no page of main RAM
 *         02 ... 03 ... 7e ...     pages of the ROMs, which no guest can write
 *     of the VM
 *         04 ... 04 ... 00         FULL sections, EOF: xen-save-devices-state's file from its 9th byte on
 *     06  00 00 00 02  "{}"        no description
 *
 * One thing differs from `migrate`: the saved run state says "running". QEMU
 * is started with -S for every clone, and pauses it all the same.
 *
 * @param parentState - state file of the template that the VM is a clone of
 * @param deviceState - what `QemuProcess.saveDeviceState` returned for the VM
 * @throws QemuError STATE_FILE_MALFORMED, QEMU_STATE_NOT_SAVED when `deviceState` is none
 */
export function deriveStateFile(parentState: Uint8Array, deviceState: Uint8Array): Buffer {
  const { ramEndBytes } = readStateFile(parentState)
  if (parentState[ramEndBytes] !== SECTION.full) {
    throw new QemuError('STATE_FILE_MALFORMED', `state file, at byte ${ramEndBytes}: RAM, but no devices`, {
      details: { position: ramEndBytes },
    })
  }
  const isWhole =
    isDeviceState(deviceState) &&
    deviceState[STREAM_HEADER_BYTES] === SECTION.full &&
    deviceState.at(-1) === SECTION.eof
  if (!isWhole) {
    throw new QemuError('QEMU_STATE_NOT_SAVED', 'QEMU saved something that is no device state', {
      details: { bytes: deviceState.length },
    })
  }
  return Buffer.concat([parentState.subarray(0, ramEndBytes), ...encodeDevices(deviceState)])
}
