import type { Route } from '../support/relay.ts'
import { Links } from '../support/relay-control.ts'
import { makeStar, type Spoke } from '../support/star-network.ts'
import type { LinkRate } from './limit.ts'
import { namespaceName, removeNamespace } from './namespaces.ts'
import { AGENT_PORT, interfaceBytes, type Link, type LinkInit, makeHost, QEMU_PORT } from './network.ts'

interface Named {
  name: string
  spoke: Spoke
}

/**
 * Two hosts that are a long way from each other. Delay comes from a relay of
 * TCP connections, as the kernel may lack netem: each host knows the hub
 * between them and nothing else.
 *
 *     source --- 10.98.0.1:4710 hub: test/support/relay.ts --- 10.98.1.2:4710 destination
 *
 * A host's interface is limited as in `makeLink`; what the hub sends is what
 * has come over the other host's.
 */
export function farLink(roundTripMs: number): (init: LinkInit) => Promise<Link> {
  return async (init) => {
    await using cleanup = new AsyncDisposableStack()
    const network = await makeStar(2, namespaceName)
    if (typeof network === 'string') throw new Error(network)
    cleanup.use(network)
    const [a, b] = network.spokes as [Spoke, Spoke]
    for (const host of ['hub', 'spoke0', 'spoke1']) cleanup.defer(() => removeNamespace(namespaceName(host)))

    const route = (from: Named, to: Named, port: number): Route => ({
      from: from.name,
      to: to.name,
      listen: { host: from.spoke.hubAddress, port },
      target: { host: to.spoke.address, port },
    })
    const [sourceEnd, destinationEnd] = [
      { name: 'source', spoke: a },
      { name: 'destination', spoke: b },
    ]
    const relay = await Links.start(network.hub.prefix, [
      route(sourceEnd, destinationEnd, AGENT_PORT),
      route(sourceEnd, destinationEnd, QEMU_PORT),
      route(destinationEnd, sourceEnd, AGENT_PORT),
    ])
    cleanup.use(relay)
    await relay.setBoth('source', 'destination', { latencyMs: roundTripMs / 2 })

    const rate: LinkRate = { bitsPerSecond: null, roundTripMs }
    const host = (spoke: Spoke, other: Spoke) => ({
      prefix: spoke.prefix,
      agent: { address: spoke.address, port: AGENT_PORT },
      // As the other one finds it.
      door: { address: other.hubAddress, port: AGENT_PORT },
    })
    const [source, destination] = [await makeHost(host(a, b), init), await makeHost(host(b, a), init)]
    const owned = cleanup.move()
    return {
      source,
      destination,
      rate,
      limit: async (bitsPerSecond) => {
        for (const spoke of [a, b]) await spoke.limit(bitsPerSecond)
        rate.bitsPerSecond = bitsPerSecond
      },
      wireBytes: () => interfaceBytes(a.prefix),
      incoming: async () => ({
        listen: `tcp:${b.address}:${QEMU_PORT}`,
        dial: `tcp:${a.hubAddress}:${QEMU_PORT}`,
      }),
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    }
  }
}
