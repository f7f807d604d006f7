import type { Dice } from './dice.ts'

type Mutation = (bytes: Buffer, dice: Dice, other: Buffer) => Buffer

/** A varint that claims far more than follows. */
const LONG_LENGTHS = [
  'ff01',
  '8080808008',
  'ffffffff07',
  'ffffffff0f',
  'ffffffffffffffffff01',
  'ffffffffffffffffffff01',
]

const at = (bytes: Buffer, dice: Dice): number => dice.below(bytes.length + 1)

const joined = (bytes: Buffer, place: number, inserted: Uint8Array, skipped = 0): Buffer =>
  Buffer.concat([bytes.subarray(0, place), inserted, bytes.subarray(place + skipped)])

/** What bytes alone can suffer on their way, without a notion of what they mean. */
const MUTATIONS: readonly Mutation[] = [
  function flipBit(bytes, dice) {
    const changed = Buffer.from(bytes)
    if (changed.length > 0) changed[dice.below(changed.length)]! ^= 1 << dice.below(8)
    return changed
  },
  function setByte(bytes, dice) {
    const changed = Buffer.from(bytes)
    if (changed.length > 0) changed[dice.below(changed.length)] = dice.pick([0, 1, 0x7f, 0x80, 0xff])
    return changed
  },
  function insertNoise(bytes, dice) {
    return joined(bytes, at(bytes, dice), dice.bytes(dice.between(1, 16)))
  },
  function cutOut(bytes, dice) {
    return joined(bytes, at(bytes, dice), Buffer.alloc(0), dice.between(1, 16))
  },
  function truncate(bytes, dice) {
    return bytes.subarray(0, at(bytes, dice))
  },
  function splice(bytes, dice, other) {
    return Buffer.concat([bytes.subarray(0, at(bytes, dice)), other.subarray(at(other, dice))])
  },
  function append(bytes, _dice, other) {
    return Buffer.concat([bytes, other])
  },
  function lieOfLength(bytes, dice) {
    return joined(bytes, at(bytes, dice), Buffer.from(dice.pick(LONG_LENGTHS), 'hex'), 1)
  },
  function repeat(bytes, dice) {
    const start = at(bytes, dice)
    const part = bytes.subarray(start, start + dice.between(1, 64))
    return joined(bytes, start, Buffer.concat(Array<Buffer>(dice.between(1, 50)).fill(part)))
  },
  function nest(bytes, dice) {
    // Groups open and never end: a parser that recurses goes as deep as they do.
    return joined(bytes, at(bytes, dice), Buffer.alloc(dice.between(1, 2000), dice.pick([0x0b, 0x13, 0x0a])))
  },
  function noise(_bytes, dice) {
    return dice.bytes(dice.between(0, 300))
  },
]

/**
 * One to three changes to a message's bytes.
 *
 * @param other - another message, to splice with
 */
export function mutate(bytes: Uint8Array, other: Uint8Array, dice: Dice): Buffer {
  let changed = Buffer.from(bytes)
  for (let left = dice.between(1, 3); left > 0; left--) {
    changed = Buffer.from(dice.pick(MUTATIONS)(changed, dice, Buffer.from(other)))
  }
  return changed
}
