import { randomUUID } from 'node:crypto'
import type { CoolDown } from '../domain/cool-down.ts'
import { errorBody } from '../domain/errors.ts'
import type { MachineSpec, TemplateId } from '../domain/template.ts'
import type { MigrationId, PeerIdText, VmRecord, VmSpec } from '../domain/vm.ts'
import type { QemuBinary } from '../qemu/index.ts'
import { ArrivingVm } from './arriving.ts'
import { VmError } from './errors.ts'
import { checkForwards } from './nics.ts'
import type { Node } from './node.ts'
import type { PreparedQemu } from './prepared-qemu.ts'
import type { HeldClaim } from './roster.ts'
import { requireRunnable } from './runnable.ts'

/** A VM as a peer offers it. */
export interface ReserveRequest {
  /** The peer that offers it. */
  source: PeerIdText
  spec: VmSpec
  /** The VM's epoch at the source. */
  epoch: number
  /** Null when the template isn't here yet and its machine isn't known. */
  machine: MachineSpec | null
  /** Pages that the VM brings, as the source counts them. */
  privatePages: number
  /** Bytes of the template's RAM that this node lacks; 0 when the template is here. */
  templateBytes: number
  migrationId: MigrationId
  /** The VM's from its arrival on. */
  coolDown: CoolDown
}

/**
 * Checks an offered VM and keeps its place. Doesn't wait, so what was checked
 * is still true when it is claimed.
 *
 * @param takePrepared - a QEMU on a template that is ready for it, if there is one
 * @param onSettled - the arrival has ended, one way or the other
 */
export function reserveVm(
  node: Node,
  { binary, takePrepared }: { binary: QemuBinary; takePrepared: (id: TemplateId) => PreparedQemu | null },
  request: ReserveRequest,
  onSettled: (arrival: ArrivingVm) => void,
): ArrivingVm {
  const { spec, machine, migrationId, coolDown } = request
  const { id, name, templateId, nics } = spec
  const { roster } = node
  const previous = roster.byId(id)
  if (previous !== undefined) requireComesBack(previous.record, request)
  roster.requireNameFree(spec)
  // Of the template that may be to come, its fetch asks for room.
  node.templates.requireFreeBytes(0)
  if (spec.hasDisk) {
    throw new VmError('VM_DISK_NOT_MOVABLE', `VM '${name}' has a disk of its own, which can not be moved yet`)
  }
  if (machine !== null) requireRunnable(binary, machine, nics)
  checkForwards(nics, roster.nics({ except: id }))
  const prepared = takePrepared(templateId)
  const claim = claimFor(node, request, prepared)
  const arrival = new ArrivingVm(
    {
      binary,
      templates: node.templates,
      claim,
      prepared,
      commit: async (record, also, onWrite) => {
        const write = () => {
          onWrite()
          return node.records.put(record, also)
        }
        // Looked up again: what was here when the VM was offered may have left or been claimed back since.
        const left = roster.byId(id)
        if (left === undefined) await write()
        else await left.giveWay((leftRecord) => requireComesBack(leftRecord, request), write)
      },
      restore: (also) => {
        const left = roster.byId(id)
        return left === undefined ? node.records.delete(id, also) : left.writeAgain(also)
      },
      onTaken: (record, process) => {
        const vm = node.add(record)
        vm.attach(process)
        node.onEvent({ kind: 'vm-arrived', id, name, migrationId, epoch: record.epoch })
        return vm
      },
      onSettled: () => {
        claim[Symbol.dispose]()
        onSettled(arrival)
      },
    },
    { spec, migrationId, coolDown, runDirs: node.runDirs, runDirName: prepared?.runDirName ?? randomUUID() },
  )
  return arrival
}

function claimFor(
  { roster, onEvent }: Node,
  { spec: { id, name, templateId, nics }, source, privatePages, templateBytes }: ReserveRequest,
  prepared: PreparedQemu | null,
): HeldClaim {
  const claim = { id, name, templateId, nics, privatePages, missingTemplateBytes: templateBytes }
  try {
    return roster.claim(claim, { source, pid: prepared?.pid ?? null })
  } catch (error) {
    // Memory is short: it goes too.
    void prepared?.quit().catch((cause: unknown) => {
      const { code, message } = errorBody(cause)
      onEvent({ kind: 'qemu-not-prepared', templateId, code, reason: message })
    })
    throw error
  }
}

/**
 * What is left here of a VM gives way to it only where the VM may have gone to
 * the very peer that offers it now: in doubt, its QEMU here ended, in a later
 * epoch. A VM that was merely switched off here is this node's, and anything
 * else would make two owners, or lose a disk.
 *
 * @throws VmError VM_ALREADY_HERE, EPOCH_STALE
 */
function requireComesBack(
  { spec, epoch: ownEpoch, state }: VmRecord,
  { source, epoch }: Pick<ReserveRequest, 'source' | 'epoch'>,
): void {
  const details = { id: spec.id, name: spec.name, epoch, ownEpoch }
  if (state.kind !== 'stopped' || state.doubt?.destination !== source || spec.hasDisk) {
    throw new VmError('VM_ALREADY_HERE', `VM '${spec.name}' is on this node already`, { details })
  }
  if (epoch <= ownEpoch) {
    const owned = `VM '${spec.name}' stopped on this node in epoch ${ownEpoch}`
    throw new VmError('EPOCH_STALE', `${owned}, and is offered in epoch ${epoch}`, { details })
  }
}
