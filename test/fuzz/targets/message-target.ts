import type { Attack } from '../attack-channel.ts'
import type { Dice } from '../dice.ts'
import { hostileMessage, plausibleMessage } from '../generate.ts'
import type { FuzzTarget } from '../target.ts'
import type { Hints } from '../values.ts'

export interface MessageTargetInit {
  name: string
  /** Full protobuf name of what the peer says, message by message; the last one as often as it likes. */
  says: readonly string[]
  hints: (dice: Dice) => Hints
  attack: (attack: Attack, dice: Dice) => Promise<string>
  checkHonest: () => Promise<void>
  dispose?: () => Promise<void>
}

/** Most are by the rules up to one message, so that what comes later is reached; some are larger than any. */
const OVERSIZE_BYTES = 300 * 1024
const RESET_SHARE = 0.1

/** A peer whose messages are all of known types, in order, and one of them is hostile. */
export function messageTarget(init: MessageTargetInit): FuzzTarget {
  const { name, says, checkHonest } = init
  return {
    name,
    attack(dice) {
      const hints = init.hints(dice)
      const length = dice.between(1, says.length + 1)
      const hostileAt = dice.below(length)
      const messages = Array.from({ length }, (_, i) => {
        const type = says[Math.min(i, says.length - 1)]!
        if (i !== hostileAt) return plausibleMessage(type, hints, dice)
        return dice.chance(0.005) ? Buffer.alloc(OVERSIZE_BYTES, 1) : hostileMessage(type, hints, dice)
      })
      return init.attack({ says: messages, resets: dice.chance(RESET_SHARE) }, dice)
    },
    checkHonest,
    async [Symbol.asyncDispose]() {
      await init.dispose?.()
    },
  }
}
