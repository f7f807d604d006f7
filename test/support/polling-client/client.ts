/**
 * A client of a VM, as a process that can run on a host of its own: `node
 * client.ts SETTINGS`, told of by `index.ts`. It listens, so that agents can
 * measure how far it is, and asks for the guest's counter ten times a second.
 * It doesn't know where the VM is: each poll asks all nodes, and the first one
 * that answers has it.
 */
import { get } from 'node:http'
import { createServer } from 'node:net'

export interface ClientSettings {
  listen: { host: string; port: number }
  /** URL of the counter on each node, by its name. */
  urls: Record<string, string>
}

/** The answer to one poll; times are this machine's, in ms. */
export interface PollAnswer {
  askedAtMs: number
  answeredAtMs: number
  node: string
  count: number
}

const POLL_INTERVAL_MS = 100
/** One that met a VM which then stood still: others follow it all the time. */
const POLL_TIMEOUT_MS = 2_000

/** @throws when no node has answered in time */
async function poll(urls: ClientSettings['urls']): Promise<PollAnswer> {
  const askedAtMs = Date.now()
  const answered = new AbortController()
  const signal = AbortSignal.any([answered.signal, AbortSignal.timeout(POLL_TIMEOUT_MS)])
  try {
    const asked = Object.entries(urls).map(async ([node, url]) => ({ node, count: await read(url, signal) }))
    const first = await Promise.any(asked)
    return { askedAtMs, answeredAtMs: Date.now(), ...first }
  } finally {
    answered.abort()
  }
}

/** On a connection of its own: one that is kept would end with the VM's stay. */
async function read(url: string, signal: AbortSignal): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  get(url, { agent: false, signal }, async (response) => {
    try {
      const body = (await response.setEncoding('utf8').toArray()).join('')
      const [, digits] = /^(\d+)\n$/.exec(body) ?? []
      if (response.statusCode === 200 && digits !== undefined) resolve(Number(digits))
      else reject(new Error(`no counter: ${response.statusCode} ${body}`))
    } catch (error) {
      reject(error)
    }
  }).on('error', reject)
  return await promise
}

if (import.meta.main) {
  const { listen, urls } = JSON.parse(process.argv[2]!) as ClientSettings
  createServer((socket) => socket.on('error', () => {}).resume()).listen(listen)
  setInterval(() => {
    poll(urls).then(
      (answer) => process.send!(answer),
      // The gap shows.
      () => {},
    )
  }, POLL_INTERVAL_MS)
  // Ends with the test that started it, whatever becomes of that.
  process.on('disconnect', () => process.exit(0))
}
