import type { FuzzTargetType } from '../target.ts'
import { startTemplateServer } from './template-server.ts'
import { startWireCodecs } from './wire-codecs.ts'

/** Everything that a peer can speak to, in order of its depth. */
export const TARGETS: readonly FuzzTargetType[] = [
  { name: 'wire-codecs', weight: 4, start: startWireCodecs },
  { name: 'template-server', weight: 2, start: startTemplateServer },
]
