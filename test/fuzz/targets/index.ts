import type { FuzzTargetType } from '../target.ts'
import { startCommandClient, startCommandServer, startConsoleServer } from './commands.ts'
import {
  startAnnouncements,
  startDirectoryClient,
  startDirectoryServer,
  startHello,
  startInventoryClient,
  startInventoryServer,
  startJoinToken,
} from './mesh.ts'
import { startMoveSource, startVerdictClient } from './move-source.ts'
import { startHerdServer, startMoveDestination, startVerdictServer } from './moves.ts'
import { startProbeClient, startProbeServer } from './probes.ts'
import { startRealNode } from './real-node.ts'
import { startTemplateClient } from './template-client.ts'
import { startTemplateServer } from './template-server.ts'
import { startWireCodecs } from './wire-codecs.ts'

/** Everything that a peer can speak to, in order of its depth. */
export const TARGETS: readonly FuzzTargetType[] = [
  { name: 'wire-codecs', weight: 12, start: startWireCodecs },
  { name: 'hello', weight: 2, start: startHello },
  { name: 'announcements', weight: 2, start: startAnnouncements },
  { name: 'directory-server', weight: 1, start: startDirectoryServer },
  { name: 'directory-client', weight: 1, start: startDirectoryClient },
  { name: 'inventory-server', weight: 1, start: startInventoryServer },
  { name: 'inventory-client', weight: 1, start: startInventoryClient },
  { name: 'join-token', weight: 1, start: startJoinToken },
  { name: 'template-server', weight: 2, start: startTemplateServer },
  { name: 'command-server', weight: 2, start: startCommandServer },
  { name: 'command-client', weight: 1, start: startCommandClient },
  { name: 'console-server', weight: 1, start: startConsoleServer },
  { name: 'probe-server', weight: 1, start: startProbeServer },
  { name: 'probe-client', weight: 1, start: startProbeClient },
  { name: 'herd-server', weight: 1, start: startHerdServer },
  { name: 'verdict-server', weight: 1, start: startVerdictServer },
  { name: 'move-destination', weight: 2, start: startMoveDestination },
  { name: 'move-source', weight: 1, start: startMoveSource },
  { name: 'verdict-client', weight: 1, start: startVerdictClient },
  { name: 'template-client', weight: 0.1, start: startTemplateClient },
  { name: 'real-node', weight: 0.3, start: startRealNode },
]
