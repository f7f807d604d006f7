import { TEMPLATE_ID_PATTERN, type TemplateId } from '../domain/template.ts'
import { NAME_PATTERN } from '../domain/text.ts'
import { TemplateError } from './errors.ts'

/** Of a template id, so many characters may stand for it; the first 7 are the same in all. */
const MIN_ID_PREFIX_CHARS = 8

/** What a template can be called by. */
export interface Labelled {
  id: TemplateId
  names: readonly string[]
}

/**
 * The template that a person means.
 *
 * @param ref - a name, an id, or the first 8 or more characters of an id
 * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_AMBIGUOUS
 */
export function resolveReference(ref: string, known: readonly Labelled[]): TemplateId {
  const named = holderOf(ref, known)
  if (named !== null) return named
  const ids = known.map(({ id }) => id)
  const matches = ref.length < MIN_ID_PREFIX_CHARS ? [] : ids.filter((id) => id.startsWith(ref))
  const [id] = matches
  if (id === undefined) throw notFound(ref)
  if (matches.length === 1) return id
  const message = `${ref} may be any of the templates ${matches.join(', ')}: write more of the id`
  throw new TemplateError('TEMPLATE_AMBIGUOUS', message, { details: { ref, ids: matches } })
}

/**
 * Whether a template may be called so: no name looks like an id.
 *
 * @throws TemplateError NAME_INVALID
 */
export function checkName(name: string): void {
  if (NAME_PATTERN.test(name) && !TEMPLATE_ID_PATTERN.test(name)) return
  throw new TemplateError(
    'NAME_INVALID',
    `${JSON.stringify(name)} can't be a template's name: up to 63 letters, digits, dots, dashes and underscores`,
    { details: { name } },
  )
}

/**
 * @param id - template that may have the name already, or null
 * @throws TemplateError NAME_TAKEN
 */
export function requireNoOtherHolder(name: string, id: TemplateId | null, known: readonly Labelled[]): void {
  const holder = holderOf(name, known)
  if (holder !== null && holder !== id) throw nameTaken(name, `belongs to template ${holder}`)
}

export function nameTaken(name: string, why: string): TemplateError {
  return new TemplateError('NAME_TAKEN', `the name ${name} ${why}: choose another one`, { details: { name } })
}

export function notFound(ref: string): TemplateError {
  return new TemplateError('TEMPLATE_NOT_FOUND', `no template ${JSON.stringify(ref)} on this node`, {
    details: { ref },
  })
}

function holderOf(name: string, known: readonly Labelled[]): TemplateId | null {
  return known.find(({ names }) => names.includes(name))?.id ?? null
}
