import { Repeating } from '../domain/repeating.ts'
import type { TemplateId } from '../domain/template.ts'
import type { Mesh } from '../mesh/index.ts'
import type { VmService } from '../vm/index.ts'

/** Templates and VMs come and go in minutes; a dial takes six round trips once. */
const LOOK_INTERVAL_MS = 5_000

/**
 * Keeps this node connected to those that its VMs may go to next: nodes that
 * hold the templates of its VMs, those of most VMs first. A move dials nobody then.
 */
export class LikelyDestinations {
  readonly #components: { mesh: Pick<Mesh, 'announcersOf' | 'keepWarm'>; vms: Pick<VmService, 'list'> }
  readonly #looking = new Repeating()

  constructor(components: {
    mesh: Pick<Mesh, 'announcersOf' | 'keepWarm'>
    vms: Pick<VmService, 'list'>
  }) {
    this.#components = components
  }

  start(): void {
    this.#looking.start(
      () => LOOK_INTERVAL_MS,
      async () => this.#components.mesh.keepWarm(this.peers()),
    )
  }

  async stop(): Promise<void> {
    await this.#looking.stop()
  }

  /** Peer ids, the likeliest first. */
  peers(): string[] {
    const { mesh, vms } = this.#components
    const vmsOf = new Map<TemplateId, number>()
    for (const { spec, state } of vms.list()) {
      if (state.kind !== 'stopped') vmsOf.set(spec.templateId, (vmsOf.get(spec.templateId) ?? 0) + 1)
    }
    const templates = [...vmsOf].toSorted(([, a], [, b]) => b - a)
    return [...new Set(templates.flatMap(([id]) => mesh.announcersOf(id)))]
  }
}
