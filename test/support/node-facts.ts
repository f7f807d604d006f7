import { createHash } from 'node:crypto'
import type { NodeFacts, NodeVm } from '../../src/domain/node.ts'
import type { TemplateId } from '../../src/domain/template.ts'
import { templateIdOf } from '../../src/wire/template-digest.ts'

/** The id of a template that exists nowhere. */
export function templateNo(index: number): TemplateId {
  return templateIdOf(createHash('sha256').update(`template ${index}`).digest())
}

export function vmNo(index: number, templateId = templateNo(1)): NodeVm {
  const id = `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`
  return { id, name: `vm-${index}`, templateId, state: 'running', epoch: 1 }
}

/** What an ordinary node says, apart from what a test cares about. */
export function someFacts(facts: Partial<NodeFacts> = {}): NodeFacts {
  return {
    memory: { limitBytes: 8e9, availableBytes: 4e9, committedBytes: 3e9, reservedBytes: 1e9 },
    load: 0.5,
    cpus: 4,
    qemu: {
      version: '7.2.22',
      machineTypes: ['pc-q35-7.2', 'pc-q35-7.1', 'pc-q35-7.0'],
      accelerator: 'tcg',
      cpuVendor: 'GenuineIntel',
      cpuLevel: 'x86-64-v3',
    },
    templates: [],
    vms: [],
    draining: false,
    coordinate: { axesMs: [1.5, -20.25, 0], heightMs: 3.125, error: 0.25 },
    ...facts,
  }
}
