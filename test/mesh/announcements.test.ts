import { expect, test } from 'vitest'
import type { NodeFacts } from '../../src/domain/node.ts'
import type { Mesh, NodeEvent } from '../../src/mesh/index.ts'
import { startMesh, startNode } from '../support/mesh-pair.ts'
import { MeshProcess } from '../support/mesh-process.ts'
import { someFacts, templateNo, vmNo } from '../support/node-facts.ts'

const soon = () => AbortSignal.timeout(10_000)

/** Facts that a test can change. */
class Says {
  facts: NodeFacts

  constructor(facts: Partial<NodeFacts> = {}) {
    this.facts = someFacts(facts)
  }

  readonly read = () => this.facts
}

/** Until the directories of all of `meshes` are as they should be; how long that took. */
async function whenDirectories(
  meshes: readonly Mesh[],
  condition: (nodes: ReturnType<Mesh['directory']>) => boolean,
  timeoutMs = 20_000,
): Promise<number> {
  const startMs = performance.now()
  for (;;) {
    if (meshes.every((mesh) => condition(mesh.directory()))) return performance.now() - startMs
    if (performance.now() - startMs > timeoutMs) throw new Error('the directories are not as expected')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

test('24 nodes know each other, and a new template within 2 s', { timeout: 120_000 }, async () => {
  const says = Array.from({ length: 24 }, (_, index) => new Says({ templates: [templateNo(index)] }))
  const startMs = performance.now()
  await using group = await startMesh(24, (index) => ({ facts: says[index]!.read }))
  const connectedMs = performance.now() - startMs
  await whenDirectories(group.nodes, (nodes) => nodes.length === 24)
  const knownMs = performance.now() - startMs
  const last = group.nodes[23]!
  says[23]!.facts = someFacts({ templates: [templateNo(23), templateNo(100)] })
  last.announce()
  const spreadMs = await whenDirectories(group.nodes, (nodes) =>
    nodes.some(({ facts }) => facts.templates.includes(templateNo(100))),
  )
  console.log(
    `24 nodes: all connected after ${Math.round(connectedMs)} ms, all known after ${Math.round(knownMs)} ms, ` +
      `a new template known to all after ${Math.round(spreadMs)} ms`,
  )
  expect(spreadMs).toBeLessThan(2000)
  for (const node of group.nodes.slice(0, 23)) {
    expect(await node.providersOf(templateNo(100), { signal: soon() })).toEqual([last.peerId])
  }
})

test('who joins late knows all templates, and all know its, within 2 s of its start', async () => {
  const says = Array.from({ length: 6 }, (_, index) => new Says({ templates: [templateNo(index)] }))
  await using group = await startMesh(6, (index) => ({ facts: says[index]!.read }))
  await whenDirectories(group.nodes, (nodes) => nodes.length === 6)
  // Nobody's beat is near: what the joining node knows it was told when it asked.
  await using late = await startNode('late', {
    joinToken: group.nodes[3]!.token(),
    facts: () => someFacts({ templates: [templateNo(50)] }),
  })
  const tookMs = await whenDirectories([late.mesh], (nodes) =>
    [0, 1, 2, 3, 4, 5].every((index) =>
      nodes.some(({ facts }) => facts.templates.includes(templateNo(index))),
    ),
  )
  const knownMs = await whenDirectories(group.nodes, (nodes) => nodes.some(({ name }) => name === 'late'))
  console.log(
    `a late joiner knows all after ${Math.round(tookMs)} ms, all know it ${Math.round(knownMs)} ms later`,
  )
  expect(tookMs + knownMs).toBeLessThan(2000)
})

test('the directory has this node first, then the others by name, with what they said', async () => {
  const facts = someFacts({ templates: [templateNo(1)], vms: [vmNo(1), vmNo(2)], load: 0.25 })
  await using group = await startMesh(3, (index) => (index === 2 ? { facts: () => facts } : {}))
  await whenDirectories(group.nodes, (nodes) => nodes.length === 3)
  const [, n1, n2] = group.nodes
  const views = n1!.directory()
  expect(views.map(({ name, self }) => [name, self])).toEqual([
    ['n1', true],
    ['n0', false],
    ['n2', false],
  ])
  expect(views[2]).toMatchObject({
    peerId: n2!.peerId,
    addresses: n2!.addresses(),
    facts,
    templatesTotal: 1,
    vmsTotal: 2,
    templatesListed: true,
    vmsListed: true,
  })
})

test('events tell of nodes that are new, have new templates, and say farewell', async () => {
  await using first = await startNode('first')
  const events: string[] = []
  first.mesh.onDirectory((event: NodeEvent) => {
    if (event.kind !== 'vms-lost-sight') events.push(`${event.kind} ${event.name} ${event.templatesTotal}`)
  })
  const says = new Says()
  {
    await using second = await startNode('second', { joinToken: first.mesh.token(), facts: says.read })
    await whenDirectories([first.mesh, second.mesh], (nodes) => nodes.length === 2)
    says.facts = someFacts({ templates: [templateNo(1)] })
    second.mesh.announce()
    await whenDirectories([first.mesh], (nodes) => nodes[1]?.templatesTotal === 1)
    // News, but not of templates.
    says.facts = someFacts({ templates: [templateNo(1)], vms: [vmNo(1)] })
    second.mesh.announce()
    await whenDirectories([first.mesh], (nodes) => nodes[1]?.vmsTotal === 1)
  }
  await whenDirectories([first.mesh], (nodes) => nodes.length === 1, 10_000)
  expect(events).toEqual(['node-announced second 0', 'node-announced second 1', 'node-expired second 1'])
})

test('memory that changes by more than a tenth is told without being asked', async () => {
  await using first = await startNode('first')
  const memory = { limitBytes: null, availableBytes: 1000e6, committedBytes: 0, reservedBytes: 0 }
  const says = new Says({ memory })
  await using second = await startNode('second', { joinToken: first.mesh.token(), facts: says.read })
  await whenDirectories([first.mesh, second.mesh], (nodes) => nodes.length === 2)
  // The first words are repeated to those who come to listen: not to be taken for what is meant here.
  await new Promise((resolve) => setTimeout(resolve, 1500))
  says.facts = someFacts({ memory: { ...memory, availableBytes: 800e6 } })
  await whenDirectories([first.mesh], (nodes) => nodes[1]?.facts.memory?.availableBytes === 800e6, 12_000)
})

test('a node that is killed is forgotten after three and a half beats', async () => {
  await using first = await startNode('first', { beatMs: 400 })
  await using second = await MeshProcess.start('second', { joinToken: first.mesh.token(), beatMs: 400 })
  await whenDirectories([first.mesh], (nodes) => nodes.length === 2)
  await second.kill('SIGKILL')
  const tookMs = await whenDirectories([first.mesh], (nodes) => nodes.length === 1, 10_000)
  console.log(`a killed node with a beat of 400 ms is forgotten after ${Math.round(tookMs)} ms`)
  expect(tookMs).toBeGreaterThan(700)
})
