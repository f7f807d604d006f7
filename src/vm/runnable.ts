import type { MachineSpec } from '../domain/template.ts'
import type { NicSpec } from '../domain/vm.ts'
import type { QemuBinary } from '../qemu/index.ts'
import { VmError } from './errors.ts'

/**
 * Whether this node's QEMU can run a machine: the state of a template made with
 * KVM can't be loaded by TCG, nor can that of a machine type which QEMU doesn't have.
 *
 * @throws VmError TEMPLATE_NOT_RUNNABLE, NO_FREE_SLOT
 */
export function requireRunnable(binary: QemuBinary, machine: MachineSpec, nics: readonly NicSpec[]): void {
  if (machine.accelerator !== binary.accelerator) {
    const why = binary.acceleratorReason === null ? '' : ` (${binary.acceleratorReason})`
    throw new VmError(
      'TEMPLATE_NOT_RUNNABLE',
      `the template was made with ${machine.accelerator}, this node runs guests with ${binary.accelerator}${why}`,
      { details: { needed: machine.accelerator, accelerator: binary.accelerator } },
    )
  }
  if (!binary.machineTypes.includes(machine.machineType)) {
    throw new VmError(
      'TEMPLATE_NOT_RUNNABLE',
      `QEMU ${binary.version} of this node has no machine type ${machine.machineType}: use a QEMU at least as new ` +
        'as the one that made the template',
      { details: { needed: machine.machineType, qemuVersion: binary.version } },
    )
  }
  const outside = nics.find((nic) => nic.slot >= machine.spareRootPorts)
  if (outside !== undefined) {
    throw new VmError(
      'NO_FREE_SLOT',
      `a NIC needs slot ${outside.slot}, and the template's machine has ${machine.spareRootPorts} spare slots`,
      { details: { slot: outside.slot, spareRootPorts: machine.spareRootPorts } },
    )
  }
}
