/** What must never be, and what was found of it. */
export const FINDING_KINDS = [
  /** Two guests of one VM ran, or its memory went back. */
  'double-run',
  /** No node has it, or nobody decides whose it is though everybody is up. */
  'lost',
  /** The guest doesn't go on, or its memory isn't what it was. */
  'wrong-digest',
  /** Processes, files, sockets or memory that belong to nothing. */
  'leftover',
  /** The move's report says something else than where the VM is. */
  'dishonest',
  'template-changed',
  /** The move ended otherwise than this fault allows. */
  'unexpected',
] as const
export type FindingKind = (typeof FINDING_KINDS)[number]

export interface Finding {
  kind: FindingKind
  text: string
}

/** An error with all that it hides: what was suppressed while something else failed too. */
export function errorText(error: unknown): string {
  if (error instanceof SuppressedError)
    return `${errorText(error.error)}\nand before that ${errorText(error.suppressed)}`
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
