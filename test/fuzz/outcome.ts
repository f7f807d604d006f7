import { DroverError } from '../../src/domain/errors.ts'
import { ChannelResetError } from '../support/channel-pair.ts'
import { FuzzFailure } from './target.ts'

/** A handler that is still busy so long after its peer has left hangs. */
const HANG_MS = 5_000

/**
 * How a handler ended: `taken`, or the code of its error.
 *
 * @throws FuzzFailure when it didn't end, or with something that nobody foresaw
 */
export async function outcomeOf(work: Promise<unknown>, what: string): Promise<string> {
  const hung = Promise.withResolvers<never>()
  const timer = setTimeout(
    () => hung.reject(new FuzzFailure(`${what}: not done after ${HANG_MS} ms`)),
    HANG_MS,
  )
  try {
    await Promise.race([work, hung.promise])
    return 'taken'
  } catch (error) {
    if (error instanceof FuzzFailure) throw error
    return codeOfRefusal(error, what)
  } finally {
    clearTimeout(timer)
  }
}

/** As `outcomeOf`, for what is done at once. */
export function outcomeOfCall(work: () => unknown, what: string): string {
  try {
    work()
    return 'taken'
  } catch (error) {
    return codeOfRefusal(error, what)
  }
}

/** @throws FuzzFailure for errors that carry no code of drover's or of the channel's */
function codeOfRefusal(error: unknown, what: string): string {
  if (error instanceof DroverError || error instanceof ChannelResetError) return error.code
  throw new FuzzFailure(`${what}: ${error instanceof Error ? error.stack : String(error)}`, { cause: error })
}
