import type { TemplateId } from '../../src/domain/template.ts'
import {
  type FetchTemplateRequest,
  fetchTemplate,
  serveTemplate,
  type TemplateStore,
} from '../../src/template/index.ts'
import type { Channel, ChannelHandler } from '../../src/wire/channel.ts'
import {
  MAX_TEMPLATE_REQUEST_BYTES,
  type TemplateReply,
  templateReplyCodec,
} from '../../src/wire/template-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { never } from './fixture.ts'

/** Larger than any reply of a small template. */
const MAX_REPLY_BYTES = 4 * 1024 * 1024

/** A peer behind an in-memory network. */
export class TestPeer {
  /** Our ends of the channels that were opened to it. */
  readonly channels: Channel[] = []
  readonly #handler: ChannelHandler
  readonly #served: Promise<unknown>[] = []

  constructor(handler: ChannelHandler) {
    this.#handler = handler
  }

  readonly open = async (): Promise<Channel> => {
    const [ours, theirs] = channelPair({ peers: ['fetcher', 'server'] })
    this.channels.push(ours)
    this.#served.push(this.#handler(theirs, never()).catch(() => theirs.abort(new Error('handler failed'))))
    return ours
  }

  /** Resolves when every channel has been served. */
  async idle(): Promise<void> {
    await Promise.all(this.#served)
  }
}

/** What a lying peer sends in place of the n-th honest reply (from 0) to one request: messages, or raw bytes. */
export type Lie = (reply: TemplateReply, n: number) => (TemplateReply | Uint8Array)[]

/** A peer that has the template, and changes what it says of it. */
export function lyingPeer(store: TemplateStore, lie: Lie): TestPeer {
  const honest = serveTemplate(store)
  return new TestPeer(async (channel, signal) => {
    const [client, server] = channelPair()
    const request = await channel.receive({ maxBytes: MAX_TEMPLATE_REQUEST_BYTES })
    await client.send(request!)
    const serving = honest(server, signal)
    for (let n = 0; ; n++) {
      const bytes = await client.receive({ maxBytes: MAX_REPLY_BYTES })
      if (bytes === null) break
      for (const said of lie(templateReplyCodec.decode(bytes), n)) {
        await channel.send(said instanceof Uint8Array ? said : templateReplyCodec.encode(said))
      }
    }
    await channel.close()
    await serving
  })
}

export function fetchFrom(
  peer: TestPeer,
  store: TemplateStore,
  id: TemplateId,
  change: Partial<FetchTemplateRequest> = {},
): ReturnType<typeof fetchTemplate> {
  return fetchTemplate({ store, open: peer.open, id, name: null, signal: never(), ...change })
}
