import { serveTemplate } from '../../../src/template/index.ts'
import { addTemplate, codeOf, never, TestNode } from '../../template/fixture.ts'
import { fetchFrom, TestPeer } from '../../template/peers.ts'
import { attackHandler } from '../attack-channel.ts'
import type { Dice } from '../dice.ts'
import { hostileMessage, plausibleMessage } from '../generate.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'

const REQUEST = 'drover.template.TemplateRequest'

/** Whoever asks for templates; the store is real, and so is what it has to read. */
export async function startTemplateServer(): Promise<FuzzTarget> {
  const node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'base')
  const handler = serveTemplate(node.store)
  const hints = { templateId: [id] }
  return {
    name: 'template-server',
    async attack(dice: Dice) {
      const before = Array.from({ length: dice.below(3) }, () => plausibleMessage(REQUEST, hints, dice))
      const says = [...before, hostileMessage(REQUEST, hints, dice)]
      return attackHandler(handler, { says, resets: dice.chance(0.1) }, 'template server')
    },
    async checkHonest() {
      await using other = await TestNode.start()
      const peer = new TestPeer(handler)
      const fetched = await codeOf(fetchFrom(peer, other.store, id, { signal: never() }))
      await peer.idle()
      if (fetched !== 'resolved') throw new FuzzFailure(`an honest fetch ended with ${fetched}`)
    },
    [Symbol.asyncDispose]: () => node[Symbol.asyncDispose](),
  }
}
