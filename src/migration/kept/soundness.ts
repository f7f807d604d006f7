/**
 * How long a node looks at the pages that a VM left there: the source waits
 * meanwhile, and then once more as long while they are read into QEMU, each time
 * a minute at most. 1 GiB from a disk of 50 MB/s; from a slower one, pages that
 * travel are as soon here.
 */
export const CHECK_TIMEOUT_MS = 20_000

/**
 * Whether kept pages are as they were.
 *
 * @param step - looks at a part of them; null: there is more
 * @returns false, too, where it takes too long
 * @throws the signal's reason
 */
export async function areSoundInTime(
  step: () => Promise<boolean | null>,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<boolean> {
  const startedMs = performance.now()
  while (performance.now() - startedMs < timeoutMs) {
    signal.throwIfAborted()
    const areSound = await step()
    if (areSound !== null) return areSound
  }
  return false
}
