import { seededRandom } from '../bench/random.ts'

/** Choices of one input: the same ones for the same run, target and index, whatever came before. */
export class Dice {
  readonly #random: () => number

  constructor(seed: number) {
    this.#random = seededRandom(seed)
  }

  /** Of one input alone, so that it can be made again without those before it. */
  static of(seed: number, target: string, index: number): Dice {
    let mixed = seed >>> 0
    for (const byte of Buffer.from(`${target} ${index}`)) mixed = Math.imul(mixed ^ byte, 0x01000193) >>> 0
    return new Dice(mixed)
  }

  /** From 0 to below `end`. */
  below(end: number): number {
    return Math.floor(this.#random() * end)
  }

  /** From `first` to `last`, both included. */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1)
  }

  /** @param probability - from 0 to 1 */
  chance(probability: number): boolean {
    return this.#random() < probability
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length)
    for (let i = 0; i < length; i++) bytes[i] = this.below(256)
    return bytes
  }

  uuid(): string {
    const hex = this.bytes(16).toString('hex')
    const parts = [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `a${hex.slice(17, 20)}`]
    return [...parts, hex.slice(20)].join('-')
  }
}
