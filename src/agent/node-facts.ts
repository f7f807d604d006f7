import { availableParallelism, loadavg } from 'node:os'
import type { NodeFacts, NodeInventory, NodeQemu, NodeVm } from '../domain/node.ts'
import { type VmRecord, vmStateName } from '../domain/vm.ts'
import type { OwnCoordinate } from '../placement/probing/index.ts'
import type { QemuBinary } from '../qemu/index.ts'
import type { TemplateStore } from '../template/index.ts'
import type { VmService } from '../vm/index.ts'
import { readCpu } from './cpu.ts'
import type { NodeSwitches } from './node-switches.ts'

/** What this node says of itself to the mesh; the QEMU and the CPU stay what they were at the start. */
export class NodeFactsReader {
  readonly #templates: TemplateStore
  readonly #vms: VmService | null
  readonly #switches: NodeSwitches
  readonly #coordinate: Pick<OwnCoordinate, 'now'>
  readonly #qemu: NodeQemu | null

  constructor(components: {
    templates: TemplateStore
    vms: VmService | null
    binary: QemuBinary | null
    switches: NodeSwitches
    coordinate: Pick<OwnCoordinate, 'now'>
  }) {
    const { templates, vms, binary, switches, coordinate } = components
    this.#switches = switches
    this.#coordinate = coordinate
    this.#templates = templates
    this.#vms = vms
    this.#qemu =
      binary === null
        ? null
        : {
            version: binary.version,
            machineTypes: binary.machineTypes,
            accelerator: binary.accelerator,
            ...readCpu(),
          }
  }

  /** Now: some file reads for each VM. */
  read(): NodeFacts {
    return {
      memory: this.#vms?.memory() ?? null,
      load: cpuLoad(),
      cpus: availableParallelism(),
      qemu: this.#qemu,
      templates: this.#templates.list().map(({ id }) => id),
      vms: this.#listVms(),
      draining: this.#switches.isOn('draining'),
      coordinate: this.#coordinate.now,
    }
  }

  inventory(): NodeInventory {
    const templates = this.#templates.list().map(({ id, names, manifest }) => {
      return { id, names, memoryBytes: manifest.machine.memoryBytes }
    })
    return { templates, vms: this.#listVms() }
  }

  #listVms(): NodeVm[] {
    return (this.#vms?.list() ?? []).map(nodeVm)
  }
}

function nodeVm({ spec, state, epoch }: VmRecord): NodeVm {
  return {
    id: spec.id,
    name: spec.name,
    templateId: spec.templateId,
    state: vmStateName(state),
    epoch,
  }
}

/** Average of the last minute's runnable processes, per CPU: above 1 they wait. */
export function cpuLoad(): number {
  return loadavg()[0]! / availableParallelism()
}
