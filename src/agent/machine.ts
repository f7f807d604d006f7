import type { MachineSpec } from '../domain/template.ts'
import type { QemuBinary } from '../qemu/index.ts'
import { AgentError } from './errors.ts'

/** The versioned form of QEMU's most modest x86-64 model: every host has all of its features, so VMs go anywhere. */
const CPU_MODEL = 'qemu64-v1'
/** A template can't get more after it is sealed; an unused one costs the guest nothing but a PCI bus number. */
const SPARE_ROOT_PORTS = 4

/**
 * The machine a new template boots on.
 *
 * @throws AgentError MACHINE_TYPE_UNKNOWN
 */
export function machineSpec(
  binary: QemuBinary,
  wanted: { machineType: string | null; memoryBytes: number; cpus: number; kernelCommandLine: string },
): MachineSpec {
  const machineType = wanted.machineType ?? binary.defaultMachineType
  if (!binary.machineTypes.includes(machineType)) {
    throw new AgentError(
      'MACHINE_TYPE_UNKNOWN',
      `QEMU ${binary.version} has no machine type ${machineType}; it has ${binary.machineTypes.join(', ')}`,
      { details: { machineType, machineTypes: binary.machineTypes } },
    )
  }
  return {
    machineType,
    accelerator: binary.accelerator,
    cpuModel: CPU_MODEL,
    cpus: wanted.cpus,
    memoryBytes: wanted.memoryBytes,
    spareRootPorts: SPARE_ROOT_PORTS,
    kernelCommandLine: wanted.kernelCommandLine,
  }
}
