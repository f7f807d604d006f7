import { QemuError } from './errors.ts'
import type { QemuProcess } from './process.ts'
import { RAM_BLOCK } from './stream-format.ts'

/** A line of `x-query-ramblock`: name, page size, offset, used length, length. */
const RAM_BLOCK_LINE = /^\s*(\S.*?)\s+\d+ [KMG]iB\s+0x[0-9a-f]+\s+0x[0-9a-f]+\s+0x[0-9a-f]+/

/** Blocks that no guest can write: firmware, its tables, boot ROMs of devices. The template's state has them. */
const READ_ONLY_BLOCK = /^(pc\.bios|pc\.rom|isa-bios|\/rom@.+|.+\.rom)$/

/**
 * Run states that a move keeps. The saved device state always says "running":
 * a guest that sleeps (S3), panicked or lost its disk would be woken by a move,
 * and be dead.
 */
const MOVABLE_RUN_STATES = new Set(['running', 'paused'])
/** QEMU's own migration has stopped the guest; what it was before is in the saved state. */
const STOPPED_BY_MIGRATION = 'finish-migrate'

/** Devices whose state is outside of QEMU. */
const HOST_DEVICE =
  /^child<(vfio-|vhost-|ivshmem|usb-host|pc-dimm|nvdimm|virtio-mem|virtio-balloon|virtio-pmem)/

/** Names of the RAM blocks in the answer of `x-query-ramblock`. */
export function ramBlockNames(text: string): string[] {
  return text
    .split('\n')
    .map((line) => RAM_BLOCK_LINE.exec(line)?.[1])
    .filter((name) => name !== undefined)
}

/** Whether a move keeps a guest in this run state. */
export function isMovable(runState: string): boolean {
  return MOVABLE_RUN_STATES.has(runState)
}

/** Whether a guest may write to a RAM block that is not main RAM. */
export function isGuestWritable(name: string): boolean {
  return name !== RAM_BLOCK && !READ_ONLY_BLOCK.test(name)
}

/** Why a RAM block keeps a VM where it is, or null. */
export function ramBlockReason(name: string): string | null {
  if (!isGuestWritable(name)) return null
  return `RAM block ${name} is neither main memory nor read-only`
}

/**
 * Whether the VM can be moved at all.
 *
 * @param options.captured - RAM blocks that are captured although the guest may write to them
 * @throws QemuError NOT_MOVABLE (details: reasons)
 */
export async function preflight(
  process: QemuProcess,
  options: { signal?: AbortSignal | undefined; captured?: readonly string[] } = {},
): Promise<void> {
  const reasons = await captureBlockers(process, options)
  if (reasons.length === 0) return
  throw new QemuError('NOT_MOVABLE', `the VM can't be moved: ${reasons.join('; ')}`, { details: { reasons } })
}

/**
 * Why main RAM, the template's ROMs and the saved device state would not be all
 * of the VM: its run state, QEMU's own blockers (saving the device state does
 * not check them), memory outside of the main RAM block, devices of the host.
 *
 * @returns empty when nothing stands in the way
 */
export async function captureBlockers(
  process: QemuProcess,
  { signal, captured = [] }: { signal?: AbortSignal | undefined; captured?: readonly string[] } = {},
): Promise<string[]> {
  const { qmp } = process
  const [{ status }, migration, ramBlocks, named, unnamed] = await Promise.all([
    qmp.execute('query-status', undefined, { signal }),
    qmp.execute('query-migrate', undefined, { signal }),
    qmp.execute('x-query-ramblock', undefined, { signal }),
    qmp.execute('qom-list', { path: '/machine/peripheral' }, { signal }),
    qmp.execute('qom-list', { path: '/machine/peripheral-anon' }, { signal }),
  ])
  const names = ramBlockNames(ramBlocks['human-readable-text'])
  return [
    ...(isMovable(status) || status === STOPPED_BY_MIGRATION ? [] : [`the guest is ${status}`]),
    ...(migration['blocked-reasons'] ?? []),
    ...(names.includes(RAM_BLOCK) ? [] : [`no RAM block ${RAM_BLOCK}`]),
    ...names
      .filter((name) => !captured.includes(name))
      .map(ramBlockReason)
      .filter((reason) => reason !== null),
    ...[...named, ...unnamed]
      .filter(({ type }) => HOST_DEVICE.test(type))
      .map(({ name, type }) => `device ${name} (${type.slice('child<'.length, -1)}) is bound to this node`),
  ]
}
