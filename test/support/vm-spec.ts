import { randomUUID } from 'node:crypto'
import { NO_COOL_DOWN } from '../../src/domain/cool-down.ts'
import type { MachineSpec } from '../../src/domain/template.ts'
import type { VmSpec } from '../../src/domain/vm.ts'
import type { ControlBody } from '../../src/wire/migration-messages.ts'

/** A plain VM: without a NIC, a disk or clients. */
export function someVmSpec(spec: Pick<VmSpec, 'templateId'> & Partial<VmSpec>): VmSpec {
  const { id = randomUUID() } = spec
  return {
    id,
    name: `vm-${id}`,
    generationId: randomUUID(),
    nics: [],
    hasDisk: false,
    clients: [],
    auto: false,
    ...spec,
  }
}

/** What a source sends first; only the VM and its machine matter. */
export function someOffer(
  offer: Pick<ControlBody<'offer'>, 'vm'> & { machine: MachineSpec } & Partial<ControlBody<'offer'>>,
): ControlBody<'offer'> {
  return {
    kind: 'offer',
    migrationId: randomUUID(),
    epoch: 1,
    privatePages: 10,
    hashSeed: 1,
    qemuVersion: '7.2.0',
    paused: false,
    baseline: new Uint8Array(0),
    maxBytesPerSecond: 0,
    coolDown: null,
    automatic: false,
    ...offer,
  }
}

/** As in the record of a VM that never moved. */
export const NEVER_MOVED = { ...NO_COOL_DOWN, atMs: 0 }
