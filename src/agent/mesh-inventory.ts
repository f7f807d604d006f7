import type { NodeInventory, NodeView, NodeVm } from '../domain/node.ts'
import type { TemplateId } from '../domain/template.ts'
import type { Mesh } from '../mesh/index.ts'
import type { MeshTemplateReply, MeshTemplatesReply, MeshVmReply, MeshVmsReply } from './api-schema.ts'

/** Nodes asked at the same time. */
const MAX_PARALLEL_ASKS = 16
/** A node that is up answers in a round trip or two, and a dial: who doesn't is left out. */
const ASK_TIMEOUT_MS = 5_000

type Label = MeshTemplatesReply['unanswered'][number]

/**
 * Which nodes hold which templates. Ids are announced; labels and sizes aren't,
 * nor are ids where there are too many, so each node that holds any is asked.
 */
export async function meshTemplates(mesh: Mesh, signal: AbortSignal): Promise<MeshTemplatesReply> {
  const holders = mesh.directory().filter(({ templatesTotal }) => templatesTotal > 0)
  const { answers, unanswered } = await askAll(mesh, holders, signal)
  const templates = new Map<TemplateId, MeshTemplateReply>()
  const add = (id: TemplateId, node: NodeView): MeshTemplateReply => {
    const template = templates.get(id) ?? { id, names: [], memoryBytes: null, nodes: [] }
    template.nodes.push(label(node))
    templates.set(id, template)
    return template
  }
  for (const node of holders) {
    const answer = answers.get(node.peerId)
    if (answer === undefined) for (const id of node.facts.templates) add(id, node)
    for (const { id, names, memoryBytes } of answer?.templates ?? []) {
      const template = add(id, node)
      template.names = [...new Set([...template.names, ...names])]
      template.memoryBytes = memoryBytes
    }
  }
  const found = [...templates.values()]
  return { templates: found.toSorted((a, b) => compare(a.names[0] ?? a.id, b.names[0] ?? b.id)), unanswered }
}

/**
 * All VMs with their nodes, those too whose nodes fell silent lately. Only nodes
 * that had no room to announce theirs are asked.
 */
export async function meshVms(mesh: Mesh, signal: AbortSignal): Promise<MeshVmsReply> {
  const nodes = mesh.directory()
  const { answers, unanswered } = await askAll(
    mesh,
    nodes.filter(({ vmsListed }) => !vmsListed),
    signal,
  )
  const vms = nodes.flatMap((node) => {
    const held: readonly NodeVm[] = answers.get(node.peerId)?.vms ?? node.facts.vms
    return held.map((vm) => meshVm(vm, node))
  })
  const lost = mesh
    .lostVms()
    // Of a node that has more VMs than it announces, they are heard of only now.
    .filter(({ vm }) => !vms.some(({ id, epoch }) => id === vm.id && epoch >= vm.epoch))
    .map(({ vm, node, sinceMs }) => ({
      ...meshVm(vm, node),
      state: 'unreachable' as const,
      unreachableSinceMs: Math.round(sinceMs),
    }))
  return {
    vms: [...vms, ...lost].toSorted((a, b) => compare(a.name, b.name) || compare(a.node, b.node)),
    unanswered,
  }
}

/** Who doesn't answer is named, and fails nobody else. */
async function askAll(
  mesh: Mesh,
  nodes: readonly NodeView[],
  signal: AbortSignal,
): Promise<{ answers: Map<string, NodeInventory>; unanswered: Label[] }> {
  const answers = new Map<string, NodeInventory>()
  const unanswered: Label[] = []
  const queue = nodes.values()
  const ask = async () => {
    for (const node of queue) {
      try {
        const bounded = AbortSignal.any([signal, AbortSignal.timeout(ASK_TIMEOUT_MS)])
        answers.set(node.peerId, await mesh.inventoryOf(node.peerId, { signal: bounded }))
      } catch {
        signal.throwIfAborted()
        unanswered.push(label(node))
      }
    }
  }
  await Promise.all(Array.from({ length: MAX_PARALLEL_ASKS }, ask))
  return { answers, unanswered }
}

function meshVm(
  { id, name, state, epoch, templateId }: NodeVm,
  node: Pick<NodeView, 'peerId' | 'name'>,
): MeshVmReply {
  const { peerId, name: nodeName } = node
  return { name, id, node: nodeName, peerId, state, unreachableSinceMs: null, epoch, template: templateId }
}

function label({ peerId, name }: NodeView): Label {
  return { peerId, name }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b)
}
