import { HANDOVER_PROTOCOL } from '../../../src/migration/index.ts'
import { HERD_PROTOCOL } from '../../../src/migration/protocol.ts'
import { machine } from '../../template/fixture.ts'
import { attackHandler } from '../attack-channel.ts'
import { Dice } from '../dice.ts'
import { FuzzNode } from '../fuzz-node.ts'
import { hostileMessage } from '../generate.ts'
import { mutate } from '../mutate.ts'
import { STEPS, type Step, scriptedMove } from '../scripted-move.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'
import { messageTarget } from './message-target.ts'

const TYPES: Record<Step, string> = {
  offer: 'drover.migration.Control',
  hello: 'drover.migration.PagesHello',
  batch: 'drover.migration.PagesFrame',
  roundEnd: 'drover.migration.PagesFrame',
  finish: 'drover.migration.Control',
  grant: 'drover.migration.Control',
}
const HONEST_SEED = 4711
/** How a move ends that keeps to the rules: its guest never ran here, so the Grant finds no VM to take. */
const HONEST_STEPS = 'accept prepared roundApplied ready abort'

/** A move to a node by the rules, which everybody but QEMU plays for real. */
async function checkHonestMove(node: FuzzNode): Promise<void> {
  const { heard } = await scriptedMove(node, new Dice(HONEST_SEED), () => null)
  if (heard.join(' ') !== HONEST_STEPS) throw new FuzzFailure(`an honest move ended after ${heard.join(' ')}`)
  await node.checkNothingLeft()
}

/** A source that breaks the rules in one message, at any point of a move. */
export async function startMoveDestination(): Promise<FuzzTarget> {
  const node = await FuzzNode.start()
  const hints = { templateId: [node.templateId], machineType: [machine.machineType] }
  return {
    name: 'move-destination',
    async attack(dice) {
      const hostileStep = dice.pick(STEPS)
      const { heard, outcomes } = await scriptedMove(node, dice, (step, bytes) => {
        if (step !== hostileStep) return null
        return dice.chance(0.6) ? mutate(bytes, bytes, dice) : hostileMessage(TYPES[step], hints, dice)
      })
      const failed = outcomes.find((outcome) => outcome !== 'taken')
      return `${hostileStep}: ${heard.at(-1) ?? 'nothing'}${failed === undefined ? '' : `, ${failed}`}`
    },
    checkHonest: () => checkHonestMove(node),
    [Symbol.asyncDispose]: () => node[Symbol.asyncDispose](),
  }
}

/** Places for a herd. */
export async function startHerdServer(): Promise<FuzzTarget> {
  const node = await FuzzNode.start()
  const handler = node.handler(HERD_PROTOCOL)
  return messageTarget({
    name: 'herd-server',
    says: ['drover.migration.Control'],
    hints: () => ({ templateId: [node.templateId] }),
    attack: (attack) => attackHandler(handler, attack, 'herd server'),
    checkHonest: () => checkHonestMove(node),
    dispose: () => node[Symbol.asyncDispose](),
  })
}

/** Questions about Grants. */
export async function startVerdictServer(): Promise<FuzzTarget> {
  const node = await FuzzNode.start()
  const handler = node.handler(HANDOVER_PROTOCOL)
  return messageTarget({
    name: 'verdict-server',
    says: ['drover.migration.VerdictRequest'],
    hints: () => ({ destination: [node.peerId] }),
    attack: (attack) => attackHandler(handler, attack, 'verdict server'),
    checkHonest: () => checkHonestMove(node),
    dispose: () => node[Symbol.asyncDispose](),
  })
}
