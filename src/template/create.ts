import { chmod, constants, copyFile, open, stat } from 'node:fs/promises'
import { diskFullOf } from '../domain/errors.ts'
import type { MachineSpec, TemplateRecord } from '../domain/template.ts'
import { DRAFT_FILE_MODE } from './disk.ts'
import type { TemplateDraft } from './draft.ts'
import { TemplateError } from './errors.ts'
import type { DraftFiles } from './layout.ts'
import { checkMachine } from './manifest.ts'
import type { TemplateStore } from './store.ts'
import { withinMs } from './within.ts'

/** What a boot gets: where the draft's files are, and when the guest is ready. */
export interface TemplateBootRequest {
  machine: MachineSpec
  /** All zeros, `machine.memoryBytes` long: to be the guest's RAM, shared. */
  ram: string
  /** Where the state of the stopped guest is to be saved. */
  state: string
  kernel: string
  initrd: string | null
  /** The template's own copy: the guest writes to it. */
  disk: string | null
  /** What the serial console says once the guest is ready. */
  readyPattern: RegExp
  signal: AbortSignal
}

/**
 * Boots a guest on the draft's files, waits until its console matches, stops
 * it, saves its state and quits: when it resolves, or rejects, nothing uses the
 * files any more.
 */
export type TemplateBoot = (request: TemplateBootRequest) => Promise<void>

export type CreateStep = 'copy' | 'boot' | 'seal'

export interface CreateTemplateRequest {
  name: string
  machine: MachineSpec
  kernelPath: string
  initrdPath: string | null
  diskPath: string | null
  readyPattern: RegExp
  /** From the start of the boot until the guest's state is saved. */
  readyTimeoutMs: number
  signal: AbortSignal
  onProgress?: ((step: CreateStep) => void) | undefined
}

/**
 * Makes a template on this node. Whatever fails, nothing is left of it.
 *
 * @throws TemplateError MACHINE_INVALID, NAME_INVALID, NAME_TAKEN, TEMPLATE_FILE_UNREADABLE before any work;
 *   TEMPLATE_NOT_READY; DiskFullError before and while it is made; what `boot` throws
 */
export async function createTemplate(
  store: TemplateStore,
  boot: TemplateBoot,
  request: CreateTemplateRequest,
): Promise<TemplateRecord> {
  const { name, machine, signal, onProgress } = request
  signal.throwIfAborted()
  checkMachine(machine)
  using _name = store.reserveName(name)
  const sizeBytes = await sourceBytes(request)
  store.requireFreeBytes(machine.memoryBytes + sizeBytes)

  await using draft = await store.begin()
  try {
    onProgress?.('copy')
    await fillDraft(draft, request)
    onProgress?.('boot')
    await bootDraft(draft, boot, request)
    onProgress?.('seal')
    return await draft.seal(machine, name, { signal })
  } catch (error) {
    signal.throwIfAborted()
    // A guest whose RAM file has no room left dies of a SIGBUS.
    throw diskFullOf(error, store.dir) ?? error
  }
}

/** Files that come from outside, by their place in the draft. */
function sources(request: CreateTemplateRequest): [file: keyof DraftFiles, path: string][] {
  const { kernelPath, initrdPath, diskPath } = request
  return [
    ['kernel', kernelPath],
    ...(initrdPath === null ? [] : [['initrd', initrdPath] as [keyof DraftFiles, string]]),
    ...(diskPath === null ? [] : [['disk', diskPath] as [keyof DraftFiles, string]]),
  ]
}

async function sourceBytes(request: CreateTemplateRequest): Promise<number> {
  let total = 0
  for (const [file, path] of sources(request)) {
    const found = await stat(path).catch((cause: unknown) => {
      throw unreadable(file, path, (cause as NodeJS.ErrnoException).code ?? 'unreadable', cause)
    })
    if (!found.isFile()) throw unreadable(file, path, 'not a file')
    if (found.size === 0) throw unreadable(file, path, 'empty')
    total += found.size
  }
  return total
}

async function fillDraft(draft: TemplateDraft, request: CreateTemplateRequest): Promise<void> {
  for (const [file, path] of sources(request)) {
    request.signal.throwIfAborted()
    // A reflink where the file system has them: nothing is copied until one side changes.
    await copyFile(path, draft.files[file], constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
    await chmod(draft.files[file], DRAFT_FILE_MODE)
  }
  await using ram = await open(draft.files.ram, 'wx', DRAFT_FILE_MODE)
  await ram.truncate(request.machine.memoryBytes)
}

async function bootDraft(
  draft: TemplateDraft,
  boot: TemplateBoot,
  request: CreateTemplateRequest,
): Promise<void> {
  const { machine, readyPattern, readyTimeoutMs, signal } = request
  const { ram, state, kernel, initrd, disk } = draft.files
  const files = {
    ram,
    state,
    kernel,
    initrd: request.initrdPath === null ? null : initrd,
    disk: request.diskPath === null ? null : disk,
  }
  await withinMs(
    readyTimeoutMs,
    signal,
    (bounded) => boot({ machine, ...files, readyPattern, signal: bounded }),
    // The boot knows what the console said instead.
    (cause) => (cause instanceof TemplateError ? cause : notReady(readyPattern, readyTimeoutMs, cause)),
  )
}

function notReady(readyPattern: RegExp, readyTimeoutMs: number, cause: unknown): TemplateError {
  return new TemplateError(
    'TEMPLATE_NOT_READY',
    `the guest's console didn't say ${readyPattern} within ${readyTimeoutMs} ms: check the pattern, or allow more time`,
    { cause, details: { readyPattern: readyPattern.source, readyTimeoutMs } },
  )
}

function unreadable(file: string, path: string, why: string, cause?: unknown): TemplateError {
  return new TemplateError('TEMPLATE_FILE_UNREADABLE', `the ${file} file ${path} can't be used: ${why}`, {
    cause,
    details: { file, path },
  })
}
