import type { GossipSub } from '@libp2p/gossipsub'
import { gossipsub, StrictNoSign, TopicValidatorResult } from '@libp2p/gossipsub'
import type { Verdict } from './announcement-intake.ts'

export const ANNOUNCE_TOPIC = '/drover/announce/1'

/** A small mesh's announcements of some seconds, in one RPC; control messages are far smaller. */
const MAX_RPC_BYTES = 256 * 1024
const MAX_RPC_MESSAGES = 64
const MAX_RPC_IDS = 512
const MAX_STREAMS = 4
/** A peer that takes nothing for minutes: the connection monitor cuts it before. */
const MAX_BACKLOG_BYTES = 4 * 1024 * 1024

/** Links of a node in the overlay: a message comes in at most once over each, and leaves at most once over each. */
export const GOSSIP_DEGREE = 6
export const MIN_GOSSIP_DEGREE = 4
export const MAX_GOSSIP_DEGREE = 8

/**
 * gossipsub 1.2, so that what a node sends and receives depends on its degree
 * and not on how many nodes it is connected to (by default both flood
 * publishing and the share of peers that get IHAVEs do):
 *
 * - `floodPublish` off: a message of this node's own goes to D peers.
 * - `gossipFactor` 0: ids of what was seen go to D_lazy = 6 others each second.
 *
 * Messages aren't signed by gossipsub: they are signed envelopes, so that they
 * can be handed on outside of it too, and their id is the hash of their bytes.
 * Peers behind one address are no sign of an attack, nobody is here without
 * the mesh key; what was malformed or forged costs its sender its place.
 */
export const gossip = gossipsub({
  globalSignaturePolicy: StrictNoSign,
  fallbackToFloodsub: false,
  floodPublish: false,
  gossipFactor: 0,
  D: GOSSIP_DEGREE,
  Dlo: MIN_GOSSIP_DEGREE,
  Dhi: MAX_GOSSIP_DEGREE,
  // A node that is alone announces itself to nobody.
  allowPublishToZeroTopicPeers: true,
  allowedTopics: [ANNOUNCE_TOPIC],
  maxInboundStreams: MAX_STREAMS,
  maxOutboundStreams: MAX_STREAMS,
  maxInboundDataLength: MAX_RPC_BYTES,
  maxOutboundBufferSize: MAX_BACKLOG_BYTES,
  awaitRpcHandler: true,
  decodeRpcLimits: {
    maxSubscriptions: 16,
    maxMessages: MAX_RPC_MESSAGES,
    maxIhaveMessageIDs: MAX_RPC_IDS,
    maxIwantMessageIDs: MAX_RPC_IDS,
    maxIdontwantMessageIDs: MAX_RPC_IDS,
    maxControlMessages: MAX_RPC_MESSAGES,
    maxPeerInfos: 16,
  },
  // Peer exchange isn't used: members find each other by their hellos.
  doPX: false,
  tagMeshPeers: false,
  scoreParams: {
    IPColocationFactorWeight: 0,
    topics: {
      [ANNOUNCE_TOPIC]: {
        topicWeight: 1,
        timeInMeshWeight: 0,
        timeInMeshQuantum: 1000,
        timeInMeshCap: 1,
        firstMessageDeliveriesWeight: 0,
        firstMessageDeliveriesDecay: 0.5,
        firstMessageDeliveriesCap: 1,
        // A beat of minutes makes silence normal.
        meshMessageDeliveriesWeight: 0,
        meshMessageDeliveriesDecay: 0.5,
        meshMessageDeliveriesCap: 1,
        meshMessageDeliveriesThreshold: 1,
        meshMessageDeliveriesWindow: 10,
        meshMessageDeliveriesActivation: 1000,
        meshFailurePenaltyWeight: 0,
        meshFailurePenaltyDecay: 0.5,
        // One puts the peer out of the overlay, three make it unheard (-80), for half a minute.
        invalidMessageDeliveriesWeight: -10,
        invalidMessageDeliveriesDecay: 0.95,
      },
    },
  },
})

const RESULTS = {
  accept: TopicValidatorResult.Accept,
  ignore: TopicValidatorResult.Ignore,
  reject: TopicValidatorResult.Reject,
} as const satisfies Record<Verdict, TopicValidatorResult>

/** Takes part in the topic: `judge` sees each message once, and what it accepts goes on to others. */
export function joinTopic(
  pubsub: GossipSub,
  judge: (data: Uint8Array, from: string) => Promise<Verdict>,
): void {
  pubsub.topicValidators.set(ANNOUNCE_TOPIC, async (peer, { data }) => {
    return RESULTS[await judge(data, peer.toString())]
  })
  pubsub.subscribe(ANNOUNCE_TOPIC)
}
