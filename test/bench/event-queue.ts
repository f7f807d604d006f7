interface Scheduled<T> {
  atMs: number
  /** Of two at the same time the one that came first. */
  order: number
  event: T
}

/** What is to happen, in the order of virtual time: a binary heap. */
export class EventQueue<T> {
  readonly #heap: Scheduled<T>[] = []
  #order = 0

  push(atMs: number, event: T): void {
    const heap = this.#heap
    const added = { atMs, order: this.#order++, event }
    let at = heap.length
    heap.push(added)
    while (at > 0) {
      const above = (at - 1) >> 1
      if (!before(added, heap[above]!)) break
      heap[at] = heap[above]!
      at = above
    }
    heap[at] = added
  }

  /** The next one, unless it is later than `untilMs`. */
  pop(untilMs: number): { atMs: number; event: T } | null {
    const heap = this.#heap
    const [first] = heap
    if (first === undefined || first.atMs > untilMs) return null
    const last = heap.pop()!
    if (heap.length > 0) this.#sink(last)
    return first
  }

  #sink(moved: Scheduled<T>): void {
    const heap = this.#heap
    let at = 0
    for (;;) {
      let below = 2 * at + 1
      if (below >= heap.length) break
      if (below + 1 < heap.length && before(heap[below + 1]!, heap[below]!)) below++
      if (!before(heap[below]!, moved)) break
      heap[at] = heap[below]!
      at = below
    }
    heap[at] = moved
  }
}

function before<T>(a: Scheduled<T>, b: Scheduled<T>): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
}
