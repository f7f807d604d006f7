import { ZERO_PAGE } from '../domain/page.ts'
import type { TemplateId } from '../domain/template.ts'
import type { NicSpec } from '../domain/vm.ts'
import { type IncomingStream, type QemuBinary, QemuProcess, RAM_BLOCK, readStateFile } from '../qemu/index.ts'
import { readTemplateState, type TemplateStore } from '../template/index.ts'

/** A QEMU on a template that waits for a VM: its stream has begun, and takes pages. */
export interface IncomingVm {
  process: QemuProcess
  /** The template's ROM blocks are in it, which an incoming QEMU leaves empty. */
  stream: IncomingStream
  /** The template's state file, checked. */
  templateState: Buffer
}

export interface IncomingLaunch {
  templateId: TemplateId
  nics: readonly NicSpec[]
  generationId: string
  runDir: string
}

/**
 * Starts QEMU on a template, paused, and opens the way in. A failure or an abort leaves no process.
 *
 * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_DAMAGED; QemuError
 */
export async function startIncoming(
  { binary, templates }: { binary: QemuBinary; templates: TemplateStore },
  { templateId, nics, generationId, runDir }: IncomingLaunch,
  { signal }: { signal: AbortSignal },
): Promise<IncomingVm> {
  const { machine } = templates.get(templateId).manifest
  const files = templates.files(templateId)
  const reading = readTemplateState(templates, templateId)
  // Looked at once QEMU is there.
  reading.catch(() => {})
  const process = await QemuProcess.start(
    binary,
    {
      machine,
      ram: { path: files.ram, share: false },
      kernelPath: files.kernel,
      initrdPath: files.initrd,
      disk: null,
      nics,
      generationId,
      incoming: true,
      runDir,
    },
    { signal },
  )
  try {
    const stream = await process.openIncoming({ signal })
    const templateState = await reading
    const roms = readStateFile(templateState).blocks.filter(({ name }) => name !== RAM_BLOCK)
    const ram = { name: RAM_BLOCK, usedBytes: machine.memoryBytes }
    await stream.begin({ machineType: machine.machineType, blocks: [ram, ...roms] }, { signal })
    for (const { name, pages } of roms) {
      const filled = pages.map(({ offsetBytes, content }) => ({ offsetBytes, content: content ?? ZERO_PAGE }))
      await stream.writePages(name, filled, { signal })
    }
    return { process, stream, templateState }
  } catch (error) {
    await process.quit({ timeoutMs: 0 })
    throw error
  }
}
