/**
 * The network between agents: who belongs to the mesh (membership, hello,
 * member-book, join-token) and who doesn't any more (removals), how they are reached (node, dialer, redialer) and
 * what goes over it (channels, channel); what each node says of itself
 * (announcement, announcer, announcements) and who has heard what (directory,
 * directory-exchange, inventory, provider-records). Nobody else knows libp2p.
 *
 *     mesh.start()            identity and mesh key, listen, dial members in the background
 *       connection ⇄ hello    names, addresses, whom each has met
 *       mesh.open(peer, '/drover/migrate/1', signal)     a Channel over the connection that is there
 */
export type { HandlerLimits } from './channels.ts'
export type { NodeEvent } from './directory.ts'
export { MESH_ERRORS, MeshError } from './errors.ts'
export type { MeshLog } from './log.ts'
export type { LostVm } from './lost-vms.ts'
export type { MemberEvent, MemberView } from './membership.ts'
export { Mesh, type RemovalView } from './mesh.ts'
export type { MeshComponents, MeshInit } from './mesh-parts.ts'
export { PeerLines } from './peer-log.ts'
export { type Rate, TokenBucket, TokenBuckets } from './token-bucket.ts'
