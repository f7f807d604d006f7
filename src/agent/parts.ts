import type { Logger } from 'pino'
import type { DroverError } from '../domain/errors.ts'
import type { Policy } from '../domain/policy.ts'
import type { Mesh } from '../mesh/index.ts'
import type { MigrationService } from '../migration/index.ts'
import type { LinkRates } from '../placement/index.ts'
import type { ClientProbes } from '../placement/probing/index.ts'
import type { QemuBinary } from '../qemu/index.ts'
import type { TemplateStore } from '../template/index.ts'
import type { VmService } from '../vm/index.ts'
import type { StatusReply } from './api-schema.ts'
import type { Commands } from './commands/dispatch.ts'
import type { AgentConfig } from './config.ts'
import type { Drains } from './drain/drains.ts'
import type { EventHub } from './event-hub.ts'
import type { TemplatePrefetch } from './prefetch/prefetch.ts'
import type { Rebalancer } from './rebalance/rebalancer.ts'
import type { TemplateSpace } from './template-space.ts'

/** What the agent is made of, as the local API sees it. */
export interface AgentParts {
  config: AgentConfig
  log: Logger
  events: EventHub
  mesh: Mesh
  policy: Policy
  templates: TemplateStore
  templateSpace: TemplateSpace
  commands: Commands
  /** Of the probe at start. */
  qemu: StatusReply['qemu']
  /** Null on a node without a usable QEMU: it still serves its templates. */
  hypervisor: Hypervisor | null
  /** Why there is none. */
  qemuError: DroverError | null
}

export interface Hypervisor {
  binary: QemuBinary
  vms: VmService
  migrations: MigrationService
  drains: Drains
  rebalancer: Rebalancer
  prefetch: TemplatePrefetch
  clientProbes: ClientProbes
  /** What links from here carried in moves. */
  linkRates: LinkRates
}

/** What commands need: all but themselves. */
export type CommandParts = Omit<AgentParts, 'commands'>

/** @throws what the probe of QEMU found wrong, such as QEMU_NOT_FOUND */
export function hypervisorOf({ hypervisor, qemuError }: CommandParts): Hypervisor {
  if (hypervisor === null) throw qemuError!
  return hypervisor
}
