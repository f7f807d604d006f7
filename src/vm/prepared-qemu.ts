import { randomUUID } from 'node:crypto'
import { readlinkSync, statSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { TemplateId } from '../domain/template.ts'
import type { NicSpec } from '../domain/vm.ts'
import {
  findGenerationId,
  type GenerationIdPlaces,
  type QemuBinary,
  QemuError,
  writeGenerationId,
} from '../qemu/index.ts'
import type { TemplateStore } from '../template/index.ts'
import { type IncomingVm, startIncoming } from './incoming.ts'

interface PreparedParts {
  templateId: TemplateId
  runDirName: string
  runDir: string
  incoming: IncomingVm
  places: GenerationIdPlaces
  ram: string
}

/**
 * A QEMU on a template that nobody has asked for yet: started, its stream
 * begun, the ROMs in it. What a VM brings beside its pages, NICs and the
 * vmgenid, it is given when it becomes that VM's.
 */
export class PreparedQemu {
  readonly templateId: TemplateId
  readonly runDirName: string
  readonly #parts: PreparedParts

  private constructor(parts: PreparedParts) {
    this.templateId = parts.templateId
    this.runDirName = parts.runDirName
    this.#parts = parts
  }

  /** @throws QemuError, GENERATION_ID_NOT_FOUND too; TemplateError; nothing is left then */
  static async start(
    components: { binary: QemuBinary; templates: TemplateStore; runDirs: string },
    templateId: TemplateId,
    { signal }: { signal: AbortSignal },
  ): Promise<PreparedQemu> {
    const { templates, runDirs } = components
    const runDirName = randomUUID()
    const runDir = join(runDirs, runDirName)
    // Nobody else knows it: where it stands in QEMU's memory, the VM's will.
    const generationId = randomUUID()
    const ram = fileIdentity(templates.files(templateId).ram)
    try {
      const incoming = await startIncoming(
        components,
        { templateId, nics: [], generationId, runDir },
        { signal },
      )
      try {
        const places = await findGenerationId(incoming.process.pid, generationId)
        return new PreparedQemu({ templateId, runDirName, runDir, incoming, places, ram })
      } catch (error) {
        await incoming.process.quit({ timeoutMs: 0 })
        throw error
      }
    } catch (error) {
      await rm(runDir, { recursive: true, force: true })
      throw error
    }
  }

  get pid(): number {
    return this.#parts.incoming.process.pid
  }

  /** Resolves when the process is gone, for whatever reason. */
  get exited(): Promise<void> {
    return this.#parts.incoming.process.exited
  }

  /** Whether a launch would start this very program on this very file now: a package is upgraded, a template repaired. */
  isCurrent(templates: TemplateStore): boolean {
    const { templateId, ram } = this.#parts
    try {
      if (readlinkSync(`/proc/${this.pid}/exe`).endsWith(' (deleted)')) return false
      return templates.has(templateId) && fileIdentity(templates.files(templateId).ram) === ram
    } catch {
      // QEMU or the file is gone.
      return false
    }
  }

  /**
   * Makes it what a launch with this vmgenid and these NICs would have made. Once; 3 ms. One that could not is to be quit.
   *
   * @throws QemuError
   */
  async become(
    { generationId, nics }: { generationId: string; nics: readonly NicSpec[] },
    { signal }: { signal: AbortSignal },
  ): Promise<IncomingVm> {
    const { incoming, places } = this.#parts
    const { process } = incoming
    writeGenerationId(process.pid, places, generationId)
    const written = await process.generationId({ signal })
    if (written !== generationId.toLowerCase()) {
      throw new QemuError('GENERATION_ID_NOT_FOUND', `QEMU says ${written}, and was given ${generationId}`, {
        details: { pid: process.pid, written, generationId },
      })
    }
    for (const nic of nics) await process.addNic(nic, { signal })
    return incoming
  }

  /** At once: there is nothing in it to lose. */
  async quit(): Promise<void> {
    const { incoming, runDir } = this.#parts
    incoming.stream.abort()
    await incoming.process.quit({ timeoutMs: 0 })
    await rm(runDir, { recursive: true, force: true })
  }
}

/** A file that was replaced by another one of the same name is another one. */
function fileIdentity(path: string): string {
  const { dev, ino } = statSync(path)
  return `${dev}:${ino}`
}
