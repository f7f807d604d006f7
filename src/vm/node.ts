import { join } from 'node:path'
import type { VmRecord } from '../domain/vm.ts'
import type { TemplateStore } from '../template/index.ts'
import type { VmEventListener } from './events.ts'
import { type Database, VmRecords } from './records.ts'
import { Roster } from './roster.ts'
import { Vm } from './vm.ts'
import { VmDirectories } from './vm-directory.ts'

export interface NodeComponents {
  /** The agent's database, open; the room keeps to its sublevel `vms`. */
  db: Database
  templates: TemplateStore
  onEvent: VmEventListener
}

export interface NodeInit {
  /** Overlays: `<dataDir>/vms/<id>/overlay.qcow2`. */
  dataDir: string
  /** Sockets and logs: `<runDir>/<UUID>/`, as VmRecord.runDirName says. At most 57 bytes long, or the sockets' paths are too long for the kernel. */
  runDir: string
  /** What VMs and their templates may use together; null: all of the machine. */
  memoryLimitBytes: number | null
}

/** What running, adopting and taking in VMs share: where things are, and who is here. */
export class Node {
  readonly templates: TemplateStore
  readonly onEvent: VmEventListener
  readonly records: VmRecords
  readonly directories: VmDirectories
  readonly roster: Roster
  readonly runDirs: string
  /** Aborted with the room's stop: ends what goes on in the background. */
  readonly stopping: AbortSignal

  constructor(components: NodeComponents, init: NodeInit, stopping: AbortSignal) {
    this.templates = components.templates
    this.onEvent = components.onEvent
    this.records = new VmRecords(components.db)
    this.directories = new VmDirectories(init.dataDir)
    this.roster = new Roster(components, init)
    this.runDirs = init.runDir
    this.stopping = stopping
  }

  /** @param name - as in VmRecord.runDirName */
  runDir(name: string): string {
    return join(this.runDirs, name)
  }

  /** Takes a committed VM into the roster. */
  add(record: VmRecord): Vm {
    const { id } = record.spec
    const vm = new Vm(
      {
        records: this.records,
        directories: this.directories,
        onEvent: this.onEvent,
        isArriving: () => this.roster.isClaimed(id),
        forget: (gone) => this.roster.remove(gone),
        stopping: this.stopping,
      },
      { record, runDir: this.runDir(record.runDirName) },
    )
    this.roster.add(vm)
    return vm
  }
}
