import type { VmRecord } from '../domain/vm.ts'
import { captureBlockers, type QemuProcess } from '../qemu/index.ts'
import { VmError } from './errors.ts'

/**
 * Whether a template can be made of a VM.
 *
 * @throws VmError TEMPLATE_NOT_DERIVABLE (details: reasons)
 */
export async function requireDerivable(
  { spec }: VmRecord,
  process: QemuProcess,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const reasons = [
    // Each clone would need the same NICs, with these addresses, before the state is loaded.
    ...(spec.nics.length === 0
      ? []
      : [`it has ${spec.nics.length} NIC(s): run one without --nic, and give NICs to the clones`]),
    ...(spec.hasDisk ? ['it has a disk of its own, of which no copy is taken yet'] : []),
    ...(await captureBlockers(process, { signal })),
  ]
  if (reasons.length > 0) throw notDerivable({ spec }, reasons)
}

export function notDerivable({ spec }: Pick<VmRecord, 'spec'>, reasons: readonly string[]): VmError {
  const { id, name } = spec
  return new VmError(
    'TEMPLATE_NOT_DERIVABLE',
    `no template can be made of VM '${name}': ${reasons.join('; ')}`,
    {
      details: { id, name, reasons },
    },
  )
}
