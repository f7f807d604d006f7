import { rm } from 'node:fs/promises'
import type { TemplateRecord } from '../domain/template.ts'
import type { NicSpec, VmId } from '../domain/vm.ts'
import { type QemuBinary, QemuProcess } from '../qemu/index.ts'
import type { TemplateFiles } from '../template/index.ts'
import type { VmDirectories } from './vm-directory.ts'

/** A template's state is some 350 KB in a local file: 30 ms. More than this, and the disk or QEMU is stuck. */
const LOAD_TIMEOUT_MS = 60_000

export interface CloneRequest {
  id: VmId
  template: TemplateRecord
  files: TemplateFiles
  nics: readonly NicSpec[]
  runDir: string
}

export interface Clone {
  /** Paused, the template's state loaded, the NICs plugged in. */
  process: QemuProcess
  /** Chosen by QEMU: a new one makes Linux reseed its random numbers. */
  generationId: string
}

/**
 * Makes a clone of a template.
 *
 * NICs come after the state is loaded: one that is part of the loaded state
 * would have the template's address (qemu-facts: "Clones and moves").
 *
 * @param cleanup - is given what undoes each step, for the caller to run unless the VM is committed
 * @throws VmError OVERLAY_FAILED, QemuError
 */
export async function startClone(
  { binary, directories }: { binary: QemuBinary; directories: VmDirectories },
  { id, template, files, nics, runDir }: CloneRequest,
  { cleanup, signal }: { cleanup: AsyncDisposableStack; signal: AbortSignal },
): Promise<Clone> {
  const { machine } = template.manifest
  cleanup.defer(() => rm(runDir, { recursive: true, force: true }))
  const disk = files.disk === null ? null : { basePath: files.disk, overlayPath: directories.overlayPath(id) }
  if (disk !== null) {
    cleanup.defer(() => directories.remove(id))
    await directories.create(id, disk.basePath, signal)
  }
  const process = await QemuProcess.start(
    binary,
    {
      machine,
      ram: { path: files.ram, share: false },
      kernelPath: files.kernel,
      initrdPath: files.initrd,
      disk,
      nics: [],
      generationId: 'auto',
      incoming: true,
      runDir,
    },
    { signal },
  )
  cleanup.defer(() => process.quit())
  await process.loadTemplateState(files.state, { signal, timeoutMs: LOAD_TIMEOUT_MS })
  const generationId = await process.generationId()
  for (const nic of nics) await process.addNic(nic, { signal })
  return { process, generationId }
}
