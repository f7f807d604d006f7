import type { Policy, Wish, World } from './world.ts'

/** VMs stay where they were started. */
export const never: Policy = { name: 'never', decide: () => [] }

/** Every VM goes to the node with the lowest of one round's probes, of all nodes, whatever the move takes. */
export const alwaysBest: Policy = {
  name: 'always-best',
  *decide(world: World): Iterable<Wish> {
    const { scene, vms, slice } = world
    for (const [index, { node, moving }] of vms.entries()) {
      // Not even looked at while it can't leave.
      if (moving !== null || world.movesOut[node]! > 0) continue
      const probedMs = scene.nodes.map((_, to) => scene.latencyMs(slice, index, to) * world.probeError())
      const best = probedMs.indexOf(Math.min(...probedMs))
      if (best !== node) yield { vm: index, to: best }
    }
  },
}
