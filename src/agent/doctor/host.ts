import { constants } from 'node:fs'
import { access, readFile, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { DoctorCheck } from '../api-schema.ts'
import type { AgentConfig } from '../config.ts'
import { answers } from '../local-socket.ts'

/** One template of a small guest with its state. */
const MIN_FREE_BYTES = 1024 ** 3
/** A VM takes some five files of the agent (QMP, page map, memory), a move ten more. */
const MIN_OPEN_FILES = 1024
const GIB = 1024 ** 3

/** Huge pages of tmpfs make private 512 pages for each one written, if templates lie there. */
export async function tmpfsCheck(): Promise<DoctorCheck> {
  const text = await readFile('/sys/kernel/mm/transparent_hugepage/shmem_enabled', 'utf8').catch(() => '')
  const mode = /\[(\w+)\]/.exec(text)?.[1] ?? 'never'
  const ok = mode !== 'always' && mode !== 'force'
  return {
    check: 'tmpfs-huge',
    ok,
    required: false,
    detail: `huge pages for shared memory: ${mode}`,
    remedy: ok
      ? null
      : 'templates on a tmpfs need huge=never: mount it so, and set shmem_enabled to never or advise',
  }
}

export async function dataDirCheck({ dataDir }: AgentConfig): Promise<DoctorCheck> {
  const existing = await nearestExisting(dataDir)
  const check = { check: 'data-dir', required: true }
  try {
    await access(existing, constants.W_OK | constants.X_OK)
  } catch {
    return {
      ...check,
      ok: false,
      detail: `${existing} isn't writable`,
      remedy: `make ${dataDir} writable, or choose another --data-dir`,
    }
  }
  const { bavail, bsize } = await statfs(existing)
  const freeBytes = bavail * bsize
  const detail = `${dataDir}: ${(freeBytes / GIB).toFixed(1)} GiB free`
  if (freeBytes >= MIN_FREE_BYTES) return { ...check, ok: true, detail, remedy: null }
  return {
    ...check,
    ok: false,
    detail,
    remedy: 'a template takes as much as its guest has written, plus its disk: free 1 GiB at least',
  }
}

/** Listening works where an agent answers, or where the directory lets us make the socket. */
export async function socketCheck({ socket }: AgentConfig, answered: boolean): Promise<DoctorCheck> {
  const check = { check: 'socket', required: true }
  if (answered || (await answers(socket))) {
    return { ...check, ok: true, detail: `the agent answers on ${socket}`, remedy: null }
  }
  const existing = await nearestExisting(dirname(socket))
  try {
    await access(existing, constants.W_OK | constants.X_OK)
    return { ...check, ok: true, detail: `no agent runs on ${socket}; one can be started`, remedy: null }
  } catch {
    return {
      ...check,
      ok: false,
      detail: `${existing} isn't writable`,
      remedy: 'start as another user, or choose another --socket',
    }
  }
}

/** The soft limit of this very process, from /proc/self/limits: "Max open files  1024  524288  files". */
export async function openFilesCheck(): Promise<DoctorCheck> {
  const limits = await readFile('/proc/self/limits', 'utf8').catch(() => '')
  const text = /^Max open files\s+(\S+)/m.exec(limits)?.[1] ?? 'unknown'
  const ok = !(Number(text) < MIN_OPEN_FILES)
  return {
    check: 'open-files',
    ok,
    required: false,
    detail: `at most ${text} open files`,
    remedy: ok ? null : `raise it to ${MIN_OPEN_FILES} or more: LimitNOFILE= of the service, or ulimit -n`,
  }
}

async function nearestExisting(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    try {
      await access(at)
      return at
    } catch {
      if (dirname(at) === at) return at
    }
  }
}
