import { readdir } from 'node:fs/promises'
import { templateReplyCodec } from '../../../src/wire/template-messages.ts'
import { addTemplate, never, TestNode } from '../../template/fixture.ts'
import { fetchFrom, lyingPeer } from '../../template/peers.ts'
import type { Dice } from '../dice.ts'
import { hostileMessage } from '../generate.ts'
import { mutate } from '../mutate.ts'
import { outcomeOf } from '../outcome.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'

const REPLY = 'drover.template.TemplateReply'
/** A small template comes with three replies. */
const REPLIES = 4

/** A provider that answers by the rules, but for one reply. */
export async function startTemplateClient(): Promise<FuzzTarget> {
  const provider = await TestNode.start()
  const here = await TestNode.start()
  const { id } = await addTemplate(provider.store)

  /** Nothing that a lie left behind makes the honest template another one. */
  async function fetch(lie: Parameters<typeof lyingPeer>[1]): Promise<string> {
    const peer = lyingPeer(provider.store, lie)
    const outcome = await outcomeOf(fetchFrom(peer, here.store, id, { signal: never() }), 'template client')
    for (const channel of peer.channels) channel.abort(new Error('the fetch has ended'))
    await peer.idle()
    return outcome
  }

  return {
    name: 'template-client',
    async attack(dice: Dice) {
      const hostileAt = dice.below(REPLIES)
      const outcome = await fetch((reply, _request, n) => {
        if (n !== hostileAt) return [reply]
        const bytes = templateReplyCodec.encode(reply)
        return [
          dice.chance(0.6)
            ? mutate(bytes, bytes, dice)
            : hostileMessage(REPLY, { totalBytes: [100, 300] }, dice),
        ]
      })
      if (here.store.has(id)) await here.store.remove(id)
      return outcome
    },
    async checkHonest() {
      const outcome = await fetch((reply) => [reply])
      if (outcome !== 'taken') throw new FuzzFailure(`an honest fetch ended with ${outcome}`)
      await here.store.remove(id)
      const left = (await readdir(here.templatesDir)).filter((name) => name.startsWith('bafkrei'))
      if (left.length > 0) throw new FuzzFailure(`left in the store: ${left.join(', ')}`)
    },
    async [Symbol.asyncDispose]() {
      await provider[Symbol.asyncDispose]()
      await here[Symbol.asyncDispose]()
    },
  }
}
