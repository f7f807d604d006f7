import type { Libp2pInit } from 'libp2p'

type Datastore = NonNullable<Libp2pInit['datastore']>
type Key = Parameters<Datastore['get']>[0]
type Query = Parameters<Datastore['query']>[0]
type KeyQuery = Parameters<Datastore['queryKeys']>[0]
interface Pair {
  key: Key
  value: Uint8Array
}

/**
 * Provider records that are kept for others, each under `/dht/provider/TEMPLATE/PEER`
 * and only for the peer that sent it: a member fills its own share and no more.
 */
const PROVIDER_PREFIX = '/dht/provider/'
const MAX_RECORDS_PER_PROVIDER = 1024
const MAX_PROVIDER_RECORDS = 16_384

/**
 * What libp2p keeps of peers, in memory: like its own store, but with bounds on
 * what members can make this node keep.
 */
export class PeerDatastore implements Datastore {
  readonly #selfId: string
  readonly #pairs = new Map<string, Pair>()
  readonly #recordsOf = new Map<string, number>()
  #records = 0

  /** @param init.selfId - whose own records have no bound but its templates */
  constructor(init: { selfId: string }) {
    this.#selfId = init.selfId
  }

  /** @throws Error when a provider's share, or all of the room for records, is used up */
  put(key: Key, value: Uint8Array): Key {
    const name = key.toString()
    const provider = this.#providerIn(name)
    if (provider !== null && !this.#pairs.has(name)) {
      const records = this.#recordsOf.get(provider) ?? 0
      if (records >= MAX_RECORDS_PER_PROVIDER || this.#records >= MAX_PROVIDER_RECORDS) {
        throw new Error(`no room for a provider record of ${provider}`)
      }
      this.#recordsOf.set(provider, records + 1)
      this.#records++
    }
    this.#pairs.set(name, { key, value })
    return key
  }

  get(key: Key): Uint8Array {
    const pair = this.#pairs.get(key.toString())
    if (pair !== undefined) return pair.value
    // Told by its name: see NotFoundError of interface-store.
    throw Object.assign(new Error(`no ${key}`), { name: 'NotFoundError' })
  }

  has(key: Key): boolean {
    return this.#pairs.has(key.toString())
  }

  delete(key: Key): void {
    const name = key.toString()
    const provider = this.#providerIn(name)
    if (!this.#pairs.delete(name) || provider === null) return
    const left = this.#recordsOf.get(provider)! - 1
    if (left > 0) this.#recordsOf.set(provider, left)
    else this.#recordsOf.delete(provider)
    this.#records--
  }

  async *putMany(source: Iterable<Pair> | AsyncIterable<Pair>): AsyncGenerator<Key> {
    for await (const { key, value } of source) yield this.put(key, value)
  }

  async *getMany(source: Iterable<Key> | AsyncIterable<Key>): AsyncGenerator<Pair> {
    for await (const key of source) yield { key, value: this.get(key) }
  }

  async *deleteMany(source: Iterable<Key> | AsyncIterable<Key>): AsyncGenerator<Key> {
    for await (const key of source) {
      this.delete(key)
      yield key
    }
  }

  batch(): ReturnType<Datastore['batch']> {
    const steps: (() => void)[] = []
    return {
      put: (key, value) => void steps.push(() => this.put(key, value)),
      delete: (key) => void steps.push(() => this.delete(key)),
      commit: () => {
        for (const step of steps.splice(0)) step()
      },
    }
  }

  *query({ prefix, ...query }: Query): Generator<Pair> {
    yield* chosen(this.#withPrefix(prefix), query)
  }

  *queryKeys({ prefix, ...query }: KeyQuery): Generator<Key> {
    const keys = this.#withPrefix(prefix).map(({ key }) => key)
    yield* chosen(keys, query)
  }

  #providerIn(name: string): string | null {
    if (!name.startsWith(PROVIDER_PREFIX)) return null
    const provider = name.slice(name.lastIndexOf('/') + 1)
    return provider === this.#selfId ? null : provider
  }

  #withPrefix(prefix = ''): Pair[] {
    return [...this.#pairs].filter(([name]) => name.startsWith(prefix)).map(([, pair]) => pair)
  }
}

function chosen<T>(
  items: readonly T[],
  query: {
    filters?: ((item: T) => boolean)[]
    orders?: ((a: T, b: T) => number)[]
    offset?: number
    limit?: number
  },
): T[] {
  const { filters = [], orders = [], offset = 0, limit = Number.POSITIVE_INFINITY } = query
  const kept = items.filter((item) => filters.every((isWanted) => isWanted(item)))
  for (const order of orders) kept.sort(order)
  return kept.slice(offset, offset + limit)
}
