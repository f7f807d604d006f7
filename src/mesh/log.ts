/** What the mesh needs of a log; a pino logger is one. */
export interface MeshLog {
  debug(facts: object, message: string): void
  info(facts: object, message: string): void
  warn(facts: object, message: string): void
}
