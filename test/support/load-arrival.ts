import { type QemuProcess, readStateFile } from '../../src/qemu/index.ts'
import type { ArrivingVm } from '../../src/vm/index.ts'

/** "QEVM" and the version. */
const HEADER_BYTES = 8

/** Does what a move does with an arrival, except that the devices come from the template: they are of the same form. */
export async function loadArrival(arrival: ArrivingVm, signal: AbortSignal): Promise<QemuProcess> {
  const { process, stream, templateState } = await arrival.launch({ signal })
  const { ramEndBytes } = readStateFile(templateState)
  const devices = Buffer.concat([
    templateState.subarray(0, HEADER_BYTES),
    templateState.subarray(ramEndBytes),
  ])
  await stream.finish(devices, { signal })
  await stream.loaded({ signal })
  return process
}
