import type { Level } from 'level'
import { z } from 'zod'
import { TEMPLATE_ID_PATTERN, type TemplateId } from '../domain/template.ts'
import { NAME_PATTERN } from '../domain/text.ts'

/** What the index keeps of a template: only what its own files don't say. */
const indexEntry = z.object({
  names: z.array(z.string().regex(NAME_PATTERN)),
  createdAtMs: z.number().min(0),
  usedAtMs: z.number().min(0),
})

export type IndexEntry = z.infer<typeof indexEntry>

/** Labels of templates, in the sublevel `templates` of the agent's database, by template id. */
export class TemplateIndex {
  readonly #db: Level<string, unknown>
  readonly #sublevel

  constructor(db: Level<string, unknown>) {
    this.#db = db
    this.#sublevel = db.sublevel<string, unknown>('templates', { valueEncoding: 'json' })
  }

  /** All entries; one that can't be read counts as missing, which costs a template its names. */
  async load(): Promise<Map<TemplateId, IndexEntry>> {
    const entries = new Map<TemplateId, IndexEntry>()
    for await (const [id, value] of this.#sublevel.iterator()) {
      const entry = indexEntry.safeParse(value)
      if (TEMPLATE_ID_PATTERN.test(id) && entry.success) entries.set(id, entry.data)
    }
    return entries
  }

  /** On disk when it resolves. */
  async put(id: TemplateId, entry: IndexEntry): Promise<void> {
    await this.#db.batch([{ type: 'put', sublevel: this.#sublevel, key: id, value: entry }], { sync: true })
  }

  /** On disk when it resolves. */
  async delete(id: TemplateId): Promise<void> {
    await this.#db.batch([{ type: 'del', sublevel: this.#sublevel, key: id }], { sync: true })
  }
}
