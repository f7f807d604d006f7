import type { MachineSpec } from '../domain/template.ts'
import type { PageCounts, VmRecord } from '../domain/vm.ts'
import { GuestMemory } from '../memory/index.ts'
import type { TemplateStore } from '../template/index.ts'
import type { Vm } from './vm.ts'

/** A VM as `vm show` tells of it. */
export interface VmView {
  record: VmRecord
  /** Null when the template is damaged or gone. */
  machine: MachineSpec | null
  /** Null while the VM has no process, or its memory can't be read: see `pagesUnavailable`. */
  pages: PageCounts | null
  /** Why there are no pages; null when there are. */
  pagesUnavailable: string | null
  /** Unix socket with the guest's serial console; one client at a time. */
  consoleSocket: string | null
  pid: number | null
  /** What QEMU says of the guest, such as `running` or `io-error` (QMP RunState). */
  runState: string | null
}

export async function viewVm(vm: Vm, templates: TemplateStore): Promise<VmView> {
  const { record, process } = vm
  const { templateId } = record.spec
  const machine = templates.has(templateId) ? templates.get(templateId).manifest.machine : null
  const nothing = { record, machine, pages: null, consoleSocket: null, pid: null, runState: null }
  if (record.state.kind === 'stopped') return { ...nothing, pagesUnavailable: 'stopped' }
  const { pid } = record.state.process
  if (process === null) return { ...nothing, pid, pagesUnavailable: 'QEMU does not answer' }
  const [counted, runState] = await Promise.all([
    countPages(pid, machine, machine === null ? '' : templates.files(templateId).ram),
    process.status().catch(() => null),
  ])
  return { ...nothing, ...counted, consoleSocket: process.consoleSocket, pid, runState }
}

async function countPages(
  pid: number,
  machine: MachineSpec | null,
  ramPath: string,
): Promise<Pick<VmView, 'pages' | 'pagesUnavailable'>> {
  if (machine === null) return { pages: null, pagesUnavailable: 'its template is damaged or gone' }
  try {
    await using memory = await GuestMemory.open({ pid, ramPath, memoryBytes: machine.memoryBytes })
    return { pages: await memory.counts(), pagesUnavailable: null }
  } catch (error) {
    return { pages: null, pagesUnavailable: (error as Error).message }
  }
}
