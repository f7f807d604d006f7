import { readFileSync } from 'node:fs'

/** Of package.json, the one place where it stands. */
export const DROVER_VERSION: string = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version
