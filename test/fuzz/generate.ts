import type { Enum, Field, Type } from 'protobufjs'
import { COORDINATE_AXES } from '../../src/domain/coordinate.ts'
import { messageType } from '../../src/wire/schema.ts'
import type { Dice } from './dice.ts'
import { mutate } from './mutate.ts'
import { type Hints, hintedValue, wildBytes, wildNumber, wildText } from './values.ts'

/** Wire types of protobuf. */
const VARINT = 0
const FIXED_64 = 1
const LENGTH = 2
const FIXED_32 = 5

/** How far a message is from what a drover would say. */
interface Style {
  hints: Hints
  /** Share of its fields that hold something odd. */
  oddness: number
}

/**
 * Bytes of a message, from its schema: half of them whole as far as fields go,
 * most with some field odd, absent, there twice, unknown or of another wire
 * type; a third changed in their bytes beside.
 *
 * @param typeName - full protobuf name
 * @param hints - what fields of a name may hold that means something to the node under attack
 */
export function hostileMessage(typeName: string, hints: Hints, dice: Dice): Buffer {
  const bytes = message(messageType(typeName), { hints, oddness: dice.pick([0, 0, 0.03, 0.1, 0.3]) }, dice)
  if (!dice.chance(0.35)) return bytes
  return mutate(bytes, message(messageType(typeName), { hints, oddness: 0 }, dice), dice)
}

/** A message whose fields are all as a drover might send them. */
export function plausibleMessage(typeName: string, hints: Hints, dice: Dice): Buffer {
  return message(messageType(typeName), { hints, oddness: 0 }, dice)
}

function message(type: Type, style: Style, dice: Dice): Buffer {
  const parts: Buffer[] = []
  for (const field of chosenFields(type, dice)) {
    if (dice.chance(style.oddness / 3)) continue
    parts.push(fieldOf(field, style, dice))
    if (dice.chance(style.oddness / 3)) parts.push(fieldOf(field, style, dice))
  }
  if (dice.chance(style.oddness / 2)) parts.push(unknownField(dice))
  return Buffer.concat(parts)
}

/** All fields; of those that exclude each other one, rarely two. */
function chosenFields(type: Type, dice: Dice): Field[] {
  const fields = type.fieldsArray.filter(({ partOf }) => partOf === null)
  for (const { fieldsArray } of type.oneofsArray) {
    fields.push(dice.pick(fieldsArray))
    if (dice.chance(0.03)) fields.push(dice.pick(fieldsArray))
  }
  return fields
}

function fieldOf(field: Field, style: Style, dice: Dice): Buffer {
  const { id, repeated, resolvedType } = field
  if (dice.chance(style.oddness / 5))
    return Buffer.concat([tag(id, dice.below(8)), dice.bytes(dice.below(20))])
  const length = repeated ? count(`${field.parent!.name}.${field.name}`, style, dice) : 1
  const values = Array.from({ length }, () => fieldValue(field, style, dice))
  const wireType = resolvedType !== null && 'fields' in resolvedType ? LENGTH : wireTypeOf(field.type)
  // Packed as by proto3, or, as parsers must take it too, each on its own.
  if (repeated && wireType !== LENGTH && !dice.chance(style.oddness / 2)) {
    return Buffer.concat([tag(id, LENGTH), delimited(Buffer.concat(values))])
  }
  return Buffer.concat(values.flatMap((value) => [tag(id, wireType), value]))
}

/** Lists that have one length. */
const LENGTHS: Readonly<Record<string, number>> = { 'Coordinate.axesUs': COORDINATE_AXES }

function count(field: string, { oddness }: Style, dice: Dice): number {
  if (field in LENGTHS && !dice.chance(oddness)) return LENGTHS[field]!
  return dice.chance(oddness) ? dice.pick([0, 16, 17, 64, 65, 257, 1000]) : dice.pick([0, 1, 1, 1, 1, 2, 3])
}

/** Without its tag. */
function fieldValue(field: Field, style: Style, dice: Dice): Buffer {
  const { type, resolvedType } = field
  if (resolvedType !== null && 'fields' in resolvedType) {
    return delimited(message(resolvedType as Type, style, dice))
  }
  const isOdd = dice.chance(style.oddness)
  if (resolvedType !== null) {
    const known = Object.values((resolvedType as Enum).values).filter((value) => value !== 0)
    return varint(isOdd ? wildNumber(dice) : BigInt(dice.pick(known)))
  }
  const hinted = isOdd ? undefined : hintedValue(field.parent!.name, field.name, style.hints, dice)
  if (type === 'string') return delimited(Buffer.from(hinted === undefined ? wildText(dice) : String(hinted)))
  if (type === 'bytes') return delimited(hinted instanceof Uint8Array ? Buffer.from(hinted) : wildBytes(dice))
  const number = typeof hinted === 'number' || typeof hinted === 'boolean' ? Number(hinted) : null
  if (type === 'double') {
    const bytes = Buffer.alloc(8)
    bytes.writeDoubleLE(number ?? dice.pick([0, -1, 1e308, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60]))
    return bytes
  }
  if (type === 'fixed32') return dice.bytes(4)
  return varint(number === null ? wildNumber(dice) : BigInt(number))
}

function wireTypeOf(type: string): number {
  if (type === 'string' || type === 'bytes') return LENGTH
  if (type === 'double') return FIXED_64
  return type === 'fixed32' ? FIXED_32 : VARINT
}

function unknownField(dice: Dice): Buffer {
  const id = dice.pick([18, 99, 1000, 19_000, 2 ** 29 - 1])
  if (dice.chance(0.5)) return Buffer.concat([tag(id, VARINT), varint(wildNumber(dice))])
  return Buffer.concat([tag(id, LENGTH), delimited(dice.bytes(dice.below(200)))])
}

function tag(id: number, wireType: number): Buffer {
  return varint((BigInt(id) << 3n) | BigInt(wireType))
}

function delimited(bytes: Buffer): Buffer {
  return Buffer.concat([varint(BigInt(bytes.length)), bytes])
}

function varint(value: bigint): Buffer {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, value)
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80)
  bytes.push(Number(rest))
  return Buffer.from(bytes)
}
