import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { open, readFile } from 'node:fs/promises'
import { PAGE_BYTES } from '../../domain/page.ts'
import { probeSoftDirty } from '../../memory/index.ts'
import type { DoctorCheck } from '../api-schema.ts'

const PTRACE_REMEDY =
  'run the agent as the user that runs QEMU, with kernel.yama.ptrace_scope at 0 or 1, or give it CAP_SYS_PTRACE; ' +
  'until then QEMU sends what moves (under TCG from 8.2 on), and no VM can be made a template of'
/** Bits 63 (present) and 62 (swapped) of a page map entry. */
const MAPPED = 0b11n << 62n

/** Reads a page of a child and its page map entry: what a move does to QEMU. */
export async function guestMemoryChecks(): Promise<DoctorCheck[]> {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  await once(child, 'spawn')
  try {
    const maps = await readFile(`/proc/${child.pid}/maps`, 'utf8').catch(() => '')
    const addressBytes = Number.parseInt(/^([0-9a-f]+)-/.exec(maps)?.[1] ?? '0', 16)
    return await Promise.all([memCheck(child.pid!, addressBytes), pagemapCheck(child.pid!, addressBytes)])
  } finally {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
}

async function memCheck(pid: number, addressBytes: number): Promise<DoctorCheck> {
  const check = { check: 'proc-mem', required: true }
  try {
    await using mem = await open(`/proc/${pid}/mem`, 'r')
    const { bytesRead } = await mem.read(new Uint8Array(PAGE_BYTES), 0, PAGE_BYTES, addressBytes)
    if (bytesRead === PAGE_BYTES) {
      return { ...check, ok: true, detail: "a child's memory can be read", remedy: null }
    }
    return { ...check, ok: false, detail: `${bytesRead} bytes read of a page`, remedy: PTRACE_REMEDY }
  } catch (error) {
    return {
      ...check,
      ok: false,
      detail: `a child's memory can't be read: ${(error as Error).message}`,
      remedy: PTRACE_REMEDY,
    }
  }
}

async function pagemapCheck(pid: number, addressBytes: number): Promise<DoctorCheck> {
  const check = { check: 'pagemap', required: true }
  try {
    await using pagemap = await open(`/proc/${pid}/pagemap`, 'r')
    const entry = Buffer.alloc(8)
    await pagemap.read(entry, 0, 8, (addressBytes / PAGE_BYTES) * 8)
    if ((entry.readBigUInt64LE() & MAPPED) !== 0n) {
      return { ...check, ok: true, detail: "a child's page map can be read", remedy: null }
    }
    const remedy = 'the kernel needs CONFIG_PROC_PAGE_MONITOR, and pages of 4096 bytes'
    return { ...check, ok: false, detail: "a child's page map doesn't show its mapped page", remedy }
  } catch (error) {
    return {
      ...check,
      ok: false,
      detail: `a child's page map can't be read: ${(error as Error).message}`,
      remedy: PTRACE_REMEDY,
    }
  }
}

export async function softDirtyCheck(): Promise<DoctorCheck> {
  const ok = await probeSoftDirty()
  return {
    check: 'soft-dirty',
    ok,
    required: false,
    detail: ok
      ? 'the kernel tells which pages were written'
      : 'the kernel tracks no written pages: each round of a move reads and hashes every private page instead (2 µs each)',
    remedy: ok ? null : 'nothing has to be done; a kernel with CONFIG_MEM_SOFT_DIRTY makes rounds cheaper',
  }
}

/** Yama's restriction of ptrace: 0 same user, 1 descendants, 2 CAP_SYS_PTRACE, 3 nobody (admin-guide/LSM/Yama.rst). */
export async function yamaCheck(): Promise<DoctorCheck> {
  const check = { check: 'yama', required: false }
  const text = await readFile('/proc/sys/kernel/yama/ptrace_scope', 'utf8').catch(() => null)
  if (text === null) return { ...check, ok: true, detail: 'the kernel has no Yama', remedy: null }
  const scope = Number(text)
  // An adopted QEMU is no descendant of the restarted agent.
  const privileged = process.getuid?.() === 0
  const ok = scope === 0 || (scope < 3 && privileged)
  return {
    ...check,
    ok,
    detail: `kernel.yama.ptrace_scope = ${scope}`,
    remedy: ok
      ? null
      : 'a restarted agent can read the VMs of the one before only with CAP_SYS_PTRACE or ptrace_scope 0',
  }
}
