/** Monotonic, and still a time of day: a clock that is set makes nothing expire, and nothing last. */
export function steadyNowMs(): number {
  return performance.timeOrigin + performance.now()
}
