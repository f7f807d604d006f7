import { PAGE_BYTES } from '../domain/page.ts'
import type { TemplateId, TemplateRecord } from '../domain/template.ts'
import { GuestMemory, hashTracker, probeSoftDirty, softDirtyTracker } from '../memory/index.ts'
import { deriveStateFile, type QemuProcess } from '../qemu/index.ts'
import { DerivedTemplate, readTemplateState } from '../template/index.ts'
import { requireDerivable } from './derivable.ts'
import { GuestChanges, type PagesRead } from './guest-changes.ts'
import type { Node } from './node.ts'
import type { SealLoan } from './seal-loan.ts'
import { isTimeToStop } from './seal-rounds.ts'
import type { Vm } from './vm.ts'

/** `template`: its RAM is copied, where the file system can't share it. `rounds`: what the VM changed. */
export type SealStep = 'template' | 'rounds' | 'hashes'

export interface SealOptions {
  signal: AbortSignal
  /** Bytes are counted for the step `template` only. */
  onProgress?: (step: SealStep, bytes: { bytesDone: number; bytesTotal: number } | null) => void
}

export interface SealResult {
  record: TemplateRecord
  /** The template that the VM is a clone of. */
  parent: TemplateId
  /** How long the guest stood still; 0 for one that its user had paused. */
  blackoutMs: number
  /** Pages that differ from the parent's. */
  changedPages: number
}

/**
 * What the last look may hold in memory until the guest goes on. A disk that is
 * busy with what the rounds wrote may keep a write waiting for a second; a
 * guest that changes more than this between two looks has to.
 */
const MAX_HELD_BYTES = 64 * 1024 ** 2
/** QEMU answers each command of the blackout in 1 to 10 ms; one that hangs must not keep the guest for long. */
const BLACKOUT_COMMAND_TIMEOUT_MS = 2000

/**
 * Seals a VM as a template, and lets it run on.
 *
 *     VM runs    draft = its template, reflinked · private pages, round after round, over it
 *     blackout   stop · device state · last look, into memory · cont
 *     VM runs    last pages, over the draft · hashes of what changed · seal
 *
 * Device state is saved before the last look, as saving may write guest memory.
 * Nothing is read from a disk or written to one in the blackout: the state goes
 * through the run directory. An agent that dies in it leaves a record that says
 * running, by which the next one resumes the guest, and a draft, which the next
 * start of the store removes.
 *
 * @param name - label of the new template
 * @throws VmError TEMPLATE_NOT_DERIVABLE, VM_STOPPED (when it ends meanwhile too), VM_BUSY, VM_IN_DOUBT,
 *   VM_UNREACHABLE; TemplateError NAME_INVALID, NAME_TAKEN, TEMPLATE_DAMAGED; DiskFullError; MemoryError; QemuError
 */
export async function sealVm(
  { templates }: Pick<Node, 'templates'>,
  vm: Vm,
  name: string,
  options: SealOptions,
): Promise<SealResult> {
  using _name = templates.reserveName(name)
  using loan = await vm.lendToSeal()
  try {
    return await sealLent({ templates }, loan, name, options)
  } catch (error) {
    options.signal.throwIfAborted()
    // A VM that was stopped meanwhile shows in whatever was looked at next.
    await loan.requireRunning()
    throw error
  }
}

async function sealLent(
  { templates }: Pick<Node, 'templates'>,
  loan: SealLoan,
  name: string,
  { signal, onProgress = () => {} }: SealOptions,
): Promise<SealResult> {
  const { record, process } = loan
  const parent = record.spec.templateId
  await requireDerivable(record, process, { signal })
  const parentState = await readTemplateState(templates, parent)
  const { memoryBytes } = templates.get(parent).manifest.machine
  const { ram: ramPath } = templates.files(parent)
  await using memory = await GuestMemory.open({ pid: process.pid, ramPath, memoryBytes })

  onProgress('template', null)
  await using template = await DerivedTemplate.open(templates, parent, {
    ownPages: (await memory.counts()).private,
    signal,
    onCopied: (bytes) => onProgress('template', bytes),
  })
  onProgress('rounds', null)
  const tracker = (await probeSoftDirty()) ? softDirtyTracker(memory) : hashTracker(memory)
  const changes = new GuestChanges({ memory, tracker })
  await copyRounds(changes, template, signal)
  const { result, blackoutMs } = await loan.holdStill((held) => lastLook(held, changes, template))
  const { deviceState, pages } = result
  for (const { first, bytes } of pages) {
    signal.throwIfAborted()
    await template.write(first, bytes)
  }
  onProgress('hashes', null)
  const sealed = await template.seal(name, deriveStateFile(parentState, deviceState), { signal })
  return { ...sealed, parent, blackoutMs }
}

async function copyRounds(
  changes: GuestChanges,
  template: DerivedTemplate,
  signal: AbortSignal,
): Promise<void> {
  const rounds: number[] = []
  while (!isTimeToStop(rounds)) {
    let roundBytes = 0
    for await (const { first, bytes } of changes.look()) {
      signal.throwIfAborted()
      await template.write(first, bytes)
      roundBytes += bytes.length
    }
    rounds.push(roundBytes / PAGE_BYTES)
  }
}

/** All of the blackout but `stop` and `cont`. */
async function lastLook(
  process: QemuProcess,
  changes: GuestChanges,
  template: DerivedTemplate,
): Promise<{ deviceState: Buffer; pages: PagesRead[] }> {
  const deviceState = await process.saveDeviceState({
    releaseDisks: false,
    timeoutMs: BLACKOUT_COMMAND_TIMEOUT_MS,
  })
  const pages: PagesRead[] = []
  let heldBytes = 0
  for await (const { first, bytes } of changes.look()) {
    heldBytes += bytes.length
    if (heldBytes <= MAX_HELD_BYTES) pages.push({ first, bytes: Buffer.from(bytes) })
    else await template.write(first, bytes)
  }
  return { deviceState, pages }
}
