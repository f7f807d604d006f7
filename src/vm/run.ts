import { randomUUID } from 'node:crypto'
import { steadyNowMs } from '../domain/clock.ts'
import { NO_COOL_DOWN } from '../domain/cool-down.ts'
import type { TemplateRecord } from '../domain/template.ts'
import { NAME_PATTERN } from '../domain/text.ts'
import type { VmId, VmRecord, VmSpec, VmWishes } from '../domain/vm.ts'
import type { QemuBinary } from '../qemu/index.ts'
import { startClone } from './clone.ts'
import { VmError } from './errors.ts'
import { keepTrying } from './keep-trying.ts'
import { assignNics, type NicRequest } from './nics.ts'
import type { Node } from './node.ts'
import type { Claim } from './roster.ts'
import { requireRunnable } from './runnable.ts'

/** A VM as its user asks for it. */
export interface RunRequest extends VmWishes {
  name: string
  /** Name or id of a template. */
  templateRef: string
  nics: readonly NicRequest[]
}

/** Epoch of a VM that never had another owner. */
const FIRST_EPOCH = 1

/**
 * Starts one VM. All that can be refused is refused before the first wait, so
 * what was checked is still true when it is claimed.
 *
 * @throws the signal's reason when it aborts
 */
export async function runVm(
  node: Node,
  binary: QemuBinary,
  request: RunRequest,
  signal: AbortSignal,
): Promise<VmRecord> {
  const { template, claim } = plan(node, binary, request)
  using _claim = node.roster.claim(claim)
  try {
    return await startClaimed(node, binary, template, { claim, request }, signal)
  } catch (error) {
    // Whichever step the abort hit, and whatever that made of it.
    signal.throwIfAborted()
    throw error
  }
}

async function startClaimed(
  node: Node,
  binary: QemuBinary,
  template: TemplateRecord,
  { claim, request: { clients = [], auto = false } }: { claim: Claim; request: RunRequest },
  signal: AbortSignal,
): Promise<VmRecord> {
  await using cleanup = new AsyncDisposableStack()
  const { id, name, nics } = claim
  const files = node.templates.files(template.id)
  await node.templates.used(template.id)
  const { process, generationId } = await startClone(
    { binary, directories: node.directories },
    { id, template, files, nics, runDir: node.runDir(id) },
    { cleanup, signal },
  )
  const spec: VmSpec = {
    id,
    name,
    templateId: template.id,
    generationId,
    nics,
    hasDisk: files.disk !== null,
    clients,
    auto,
  }
  const state = { kind: 'running', process: process.identity, paused: false } as const
  const createdAtMs = Math.round(steadyNowMs())
  const coolDown = { ...NO_COOL_DOWN, atMs: createdAtMs }
  const record: VmRecord = { spec, epoch: FIRST_EPOCH, state, runDirName: id, createdAtMs, coolDown }
  signal.throwIfAborted()
  // Where that fails too, a crash would leave the record of a VM that never was.
  cleanup.defer(() => forgetRecord(node, id))
  // The commit point. A crash before it: the next start ends the QEMU. After it: adopts and resumes it.
  await node.records.put(record)
  await process.resume()
  if (spec.hasDisk) await node.directories.commit(id)
  cleanup.move()
  node.add(record).attach(process)
  node.onEvent({ kind: 'vm-started', id, name })
  return record
}

async function forgetRecord({ records, stopping }: Node, id: VmId): Promise<void> {
  const forget = () => records.delete(id)
  await forget().catch(() => void keepTrying(forget, stopping))
}

function plan(
  { roster, templates }: Node,
  binary: QemuBinary,
  { name, templateRef, nics: requested }: RunRequest,
): { template: TemplateRecord; claim: Claim } {
  if (!NAME_PATTERN.test(name)) {
    throw new VmError(
      'NAME_INVALID',
      `${JSON.stringify(name)} can't be a VM's name: up to 63 letters, digits, dots, dashes and underscores`,
      { details: { name } },
    )
  }
  const id = randomUUID()
  roster.requireNameFree({ id, name })
  const template = templates.resolve(templateRef)
  templates.requireFreeBytes(0)
  const { machine } = template.manifest
  const nics = assignNics(requested, { taken: roster.nics(), spareRootPorts: machine.spareRootPorts })
  requireRunnable(binary, machine, nics)
  return {
    template,
    claim: { id, name, templateId: template.id, nics, privatePages: 0, missingTemplateBytes: 0 },
  }
}
