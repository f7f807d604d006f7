import { PolicyError } from './errors.ts'
import type { PeerIdText } from './vm.ts'

/** What another node may want of this one; `command` includes consoles and removals from the mesh. */
export const PEER_ACTIONS = ['send', 'fetch', 'command'] as const
export type PeerAction = (typeof PEER_ACTIONS)[number]

/** Who may: every member, or those named by peer id (names are claims). */
export type Permitted = 'members' | readonly PeerIdText[]
export type PolicySettings = Readonly<Record<PeerAction, Permitted>>

const EVERY_MEMBER: PolicySettings = { send: 'members', fetch: 'members', command: 'members' }

const MEANINGS: Readonly<Record<PeerAction, string>> = {
  send: 'send VMs to it',
  fetch: 'fetch templates from it',
  command: 'command its VMs',
}

/** Which members may do what on this node. What is asked for on the node itself is no business of it. */
export class Policy {
  readonly settings: PolicySettings
  readonly #node: string

  /**
   * @param settings - an action left out: every member
   * @param init.node - this node's name, for those who are refused
   */
  constructor(settings: Partial<PolicySettings>, init: { node: string }) {
    this.settings = { ...EVERY_MEMBER, ...settings }
    this.#node = init.node
  }

  permits(action: PeerAction, peer: PeerIdText): boolean {
    const permitted = this.settings[action]
    return permitted === 'members' || permitted.includes(peer)
  }

  /**
   * @param peer - who asks, as its connection proves
   * @throws PolicyError NOT_PERMITTED with details `{action, peer}`
   */
  requirePermitted(action: PeerAction, peer: PeerIdText): void {
    if (this.permits(action, peer)) return
    throw new PolicyError(
      'NOT_PERMITTED',
      `node ${this.#node} does not let ${peer} ${MEANINGS[action]}: see \`allow.${action}\` in its config file`,
      { details: { action, peer } },
    )
  }
}
