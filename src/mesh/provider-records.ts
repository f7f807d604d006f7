import type { KadDHT } from '@libp2p/kad-dht'
import type { Multiaddr } from '@multiformats/multiaddr'
import { CID } from 'multiformats/cid'
import { errorBody } from '../domain/errors.ts'
import type { TemplateId } from '../domain/template.ts'
import { dialableAddresses } from './address.ts'
import type { MeshLog } from './log.ts'
import { Tasks } from './tasks.ts'

/** One is the walk to the 20 nodes nearest to an id, and a message to each. */
const PROVIDE_TIMEOUT_MS = 60_000
/** A record that reached nobody, since nobody was there yet. */
const RETRY_MS = 30_000
const FIND_TIMEOUT_MS = 10_000
const MAX_PROVIDERS = 32

export interface Provider {
  peerId: string
  addresses: Multiaddr[]
}

/**
 * Who has a template, by the distributed hash table: for meshes that are too
 * large for a directory, and for nodes whose directory is still empty. Holds
 * provider records only, by template id; the table renews them itself.
 */
export class ProviderRecords {
  readonly #dht: KadDHT
  readonly #log: MeshLog
  readonly #isRemoved: (peerId: string) => boolean
  readonly #provided = new Set<TemplateId>()
  readonly #waiting = new Set<TemplateId>()
  readonly #tasks = new Tasks()
  #isProviding = false

  /** @param components.isRemoved - who isn't a provider, whoever keeps its records */
  constructor(components: { dht: KadDHT; log: MeshLog; isRemoved: (peerId: string) => boolean }) {
    this.#dht = components.dht
    this.#isRemoved = components.isRemoved
    this.#log = components.log
  }

  /** What this node has now: new ones are provided, one after the other, in the background. */
  set(templates: readonly TemplateId[]): void {
    const wanted = new Set(templates)
    for (const id of wanted.difference(this.#provided)) this.#waiting.add(id)
    for (const id of this.#provided.union(this.#waiting).difference(wanted)) this.#withdraw(id)
    this.#provideNext()
  }

  /** Other nodes with a template, as many as are found in FIND_TIMEOUT_MS; the nearest in the table first. */
  async find(id: TemplateId, signal: AbortSignal): Promise<Provider[]> {
    const found = new Map<string, Provider>()
    const timeout = AbortSignal.timeout(FIND_TIMEOUT_MS)
    try {
      for await (const event of this.#dht.findProviders(CID.parse(id), {
        signal: AbortSignal.any([signal, timeout]),
      })) {
        if (event.name !== 'PROVIDER') continue
        for (const { id: peer, multiaddrs } of event.providers) {
          const peerId = peer.toString()
          if (this.#isRemoved(peerId)) continue
          found.set(peerId, { peerId, addresses: dialableAddresses(multiaddrs.map(String), peerId) })
        }
        if (found.size >= MAX_PROVIDERS) break
      }
    } catch (error) {
      signal.throwIfAborted()
      if (!timeout.aborted) throw error
    }
    return [...found.values()]
  }

  async stop(reason: Error): Promise<void> {
    await this.#tasks.stop(reason)
  }

  #provideNext(): void {
    const [id] = this.#waiting
    if (id === undefined || this.#isProviding) return
    this.#isProviding = true
    this.#waiting.delete(id)
    this.#provided.add(id)
    this.#tasks.run(
      async (signal) => {
        const reached = await this.#provide(id, signal).finally(() => {
          this.#isProviding = false
        })
        if (reached === 0) this.#retry(id, signal)
        else this.#provideNext()
      },
      (error) => {
        this.#log.debug({ template: id, ...errorBody(error) }, 'a provider record reached nobody')
        this.#tasks.run(
          async (signal) => this.#retry(id, signal),
          () => undefined,
        )
      },
    )
  }

  /** @returns how many nodes keep the record now */
  async #provide(id: TemplateId, signal: AbortSignal): Promise<number> {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(PROVIDE_TIMEOUT_MS)])
    let reached = 0
    for await (const event of this.#dht.provide(CID.parse(id), { signal: bounded })) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'ADD_PROVIDER') reached++
    }
    return reached
  }

  #retry(id: TemplateId, signal: AbortSignal): void {
    if (!this.#provided.delete(id)) return
    this.#waiting.add(id)
    const timer = setTimeout(() => this.#provideNext(), RETRY_MS).unref()
    signal.addEventListener('abort', () => clearTimeout(timer), { once: true })
  }

  #withdraw(id: TemplateId): void {
    this.#waiting.delete(id)
    if (!this.#provided.delete(id)) return
    this.#tasks.run(
      (signal) => this.#dht.cancelReprovide(CID.parse(id), { signal }),
      (error) => this.#log.debug({ template: id, ...errorBody(error) }, 'a provider record stays'),
    )
  }
}
