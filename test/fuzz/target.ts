import type { Dice } from './dice.ts'

/**
 * One protocol's handler, as a peer finds it. What an attack does depends on
 * its dice alone, as far as the handler's own state allows.
 */
export interface FuzzTarget extends AsyncDisposable {
  readonly name: string
  /**
   * One input, to its end.
   *
   * @returns how it was taken: `taken`, or the code that it was refused with
   * @throws FuzzFailure when the handler did what no input may make it do
   */
  attack(dice: Dice): Promise<string>
  /** Somebody else, who plays by the rules. Throws when he isn't served, or something was left behind. */
  checkHonest(): Promise<void>
}

export interface FuzzTargetType {
  name: string
  /** Of all inputs, so many for each one of the others'. */
  weight: number
  start: () => Promise<FuzzTarget>
}

/** The handler's fault. */
export class FuzzFailure extends Error {}
