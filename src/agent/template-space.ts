import type { Logger } from 'pino'
import { errorBody } from '../domain/errors.ts'
import type { Mesh } from '../mesh/index.ts'
import type { TemplateStore } from '../template/index.ts'
import type { GcReply } from './api-schema.ts'
import type { EventHub } from './event-hub.ts'

/** Keeps the templates of a node within a limit. */
export class TemplateSpace {
  readonly #components: { templates: TemplateStore; mesh: Mesh; events: EventHub; log: Logger }
  readonly #limitBytes: number | null
  /** Collections follow each other. */
  #turn: Promise<unknown> = Promise.resolve()

  /** @param init.limitBytes - kept whenever a template comes; null: only what a person asks for */
  constructor(
    components: { templates: TemplateStore; mesh: Mesh; events: EventHub; log: Logger },
    init: { limitBytes: number | null },
  ) {
    this.#components = components
    this.#limitBytes = init.limitBytes
  }

  /** Something has come: makes room for it, in the background. The newest stays in any case. */
  onChange(): void {
    if (this.#limitBytes === null) return
    this.collect(this.#limitBytes, { spareNewest: true }).catch((error: unknown) => {
      this.#components.log.warn(errorBody(error), 'templates could not be removed')
    })
  }

  /**
   * Removes what is least useful.
   *
   * @param limitBytes - null: the node's own limit, if it has one
   */
  collect(limitBytes: number | null, { spareNewest }: { spareNewest: boolean }): Promise<GcReply> {
    const collected = this.#turn.then(() => this.#collect(limitBytes ?? this.#limitBytes, spareNewest))
    this.#turn = collected.catch(() => {})
    return collected
  }

  async stop(): Promise<void> {
    await this.#turn
  }

  async #collect(limitBytes: number | null, spareNewest: boolean): Promise<GcReply> {
    const { templates, mesh, events } = this.#components
    const elsewhere = new Set(mesh.directory().flatMap(({ self, facts }) => (self ? [] : facts.templates)))
    const { removed, keptBytes, partialBytes } = await templates.gc({
      limitBytes,
      spareNewest,
      isElsewhere: (id) => elsewhere.has(id),
    })
    for (const { record } of removed) {
      events.publish({ kind: 'template-removed', id: record.id, names: record.names })
    }
    return {
      limitBytes,
      removed: removed.map(({ record: { id, names }, bytes }) => ({ id, names, bytes })),
      partialBytes,
      keptBytes,
    }
  }
}
