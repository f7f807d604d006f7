import type { TemplateId } from '../../src/domain/template.ts'
import {
  type DroppedProvider,
  type FetchTemplateRequest,
  fetchTemplate,
  serveTemplate,
  type TemplateProvider,
  type TemplateStore,
} from '../../src/template/index.ts'
import type { Channel, ChannelHandler } from '../../src/wire/channel.ts'
import {
  MAX_TEMPLATE_REQUEST_BYTES,
  type TemplateReply,
  type TemplateRequest,
  templateReplyCodec,
  templateRequestCodec,
} from '../../src/wire/template-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { never } from './fixture.ts'

/** Larger than any reply of a small template. */
const MAX_REPLY_BYTES = 4 * 1024 * 1024

/** A peer behind an in-memory network. */
export class TestPeer implements TemplateProvider {
  readonly peer: string
  /** Our ends of the channels that were opened to it. */
  readonly channels: Channel[] = []
  readonly #handler: ChannelHandler
  readonly #served: Promise<unknown>[] = []

  constructor(handler: ChannelHandler, peer = 'server') {
    this.#handler = handler
    this.peer = peer
  }

  readonly open = async (): Promise<Channel> => {
    const [ours, theirs] = channelPair({ peers: ['fetcher', this.peer] })
    this.channels.push(ours)
    this.#served.push(this.#handler(theirs, never()).catch(() => theirs.abort(new Error('handler failed'))))
    return ours
  }

  /** Resolves when every channel has been served. */
  async idle(): Promise<void> {
    await Promise.all(this.#served)
  }
}

/** What a lying peer sends in place of the honest reply to a request, the n-th (from 0): messages, or raw bytes. */
export type Lie = (
  reply: TemplateReply,
  request: TemplateRequest,
  n: number,
) => (TemplateReply | Uint8Array)[] | Promise<(TemplateReply | Uint8Array)[]>

/** A peer that has the template, and changes what it says of it. */
export function lyingPeer(store: TemplateStore, lie: Lie, peer = 'server'): TestPeer {
  const honest = serveTemplate(store)
  return new TestPeer(async (channel, signal) => {
    const [client, server] = channelPair()
    const serving = honest(server, signal)
    // Also when its fetcher hangs up: an honest server holds files and a MiB for as long as anybody may ask.
    await using _ = { [Symbol.asyncDispose]: () => client.close().then(() => serving) }
    for (let n = 0; ; n++) {
      const question = await channel.receive({ maxBytes: MAX_TEMPLATE_REQUEST_BYTES })
      if (question === null) break
      const request = structuredClone(templateRequestCodec.decode(question))
      await client.send(question)
      const bytes = await client.receive({ maxBytes: MAX_REPLY_BYTES })
      for (const said of await lie(structuredClone(templateReplyCodec.decode(bytes!)), request, n)) {
        await channel.send(said instanceof Uint8Array ? said : templateReplyCodec.encode(said))
      }
    }
    await channel.close()
  }, peer)
}

type FetchChange = Partial<FetchTemplateRequest>

/** From one peer that isn't tried again when its channel breaks, unless told otherwise. */
export function fetchFrom(
  peers: TestPeer | readonly TestPeer[],
  store: TemplateStore,
  id: TemplateId,
  change: FetchChange = {},
): ReturnType<typeof fetchTemplate> {
  const providers = () => [peers].flat()
  const request = { store, providers, id, name: null, signal: never(), retryDelaysMs: [], ...change }
  return fetchTemplate(request)
}

/** Collects who was dropped, and why. */
export function drops(): { dropped: DroppedProvider[]; onDropped: (provider: DroppedProvider) => void } {
  const dropped: DroppedProvider[] = []
  return { dropped, onDropped: (provider) => void dropped.push(provider) }
}
