/** Hosts of our own behind links of their own, all of them ending at one hub: network namespaces. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

const DEVICE = 'veth0'
/** A queue of 50 ms behind each link. */
const QUEUE = '50ms'
/** Bytes that may leave at once: a segment offload's 64 KiB at least. */
const MIN_BURST_BYTES = 65_536

export interface Spoke {
  /** IPv4 address that the hub reaches it at. */
  address: string
  /** Address of the hub as this spoke reaches it. */
  hubAddress: string
  /** Command that runs everything of this host. */
  prefix: readonly string[]
  /** Limits what it sends; null: no limit. */
  limit(bitsPerSecond: number | null): Promise<void>
}

export interface StarNetwork extends AsyncDisposable {
  hub: { prefix: readonly string[] }
  spokes: Spoke[]
}

/**
 * @param nameOf - the namespace of a host: one of its own, whatever else runs on this machine
 * @returns why there is none, where namespaces can't be made
 */
export async function makeStar(
  spokes: number,
  nameOf: (host: string) => string = (host) => `drover-${host}-${process.pid}`,
): Promise<StarNetwork | string> {
  const hub = nameOf('hub')
  const names = Array.from({ length: spokes }, (_, i) => nameOf(`spoke${i}`))
  const remove = async () => {
    for (const name of [...names, hub]) await run('ip', ['netns', 'del', name]).catch(() => {})
  }
  try {
    for (const name of [hub, ...names]) {
      await run('ip', ['netns', 'add', name])
      await run('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
    }
    const made: Spoke[] = []
    for (const [i, name] of names.entries()) made.push(await makeSpoke(hub, name, i))
    return { hub: { prefix: within(hub) }, spokes: made, [Symbol.asyncDispose]: remove }
  } catch (error) {
    await remove()
    return `no network namespaces: ${(error as Error).message.trim()}`
  }
}

async function makeSpoke(hub: string, name: string, index: number): Promise<Spoke> {
  const [address, hubAddress] = [`10.98.${index}.2`, `10.98.${index}.1`]
  const hubDevice = `spoke${index}`
  const peer = ['peer', 'name', DEVICE, 'netns', name]
  await run('ip', ['link', 'add', hubDevice, 'netns', hub, 'type', 'veth', ...peer])
  await run('ip', ['-n', hub, 'addr', 'add', `${hubAddress}/24`, 'dev', hubDevice])
  await run('ip', ['-n', name, 'addr', 'add', `${address}/24`, 'dev', DEVICE])
  await run('ip', ['-n', hub, 'link', 'set', hubDevice, 'up'])
  await run('ip', ['-n', name, 'link', 'set', DEVICE, 'up'])
  return {
    address,
    hubAddress,
    prefix: within(name),
    limit: async (bitsPerSecond) => {
      const tc = (...args: string[]) => run('ip', ['netns', 'exec', name, 'tc', 'qdisc', ...args])
      await tc('del', 'dev', DEVICE, 'root').catch(() => {})
      if (bitsPerSecond === null) return
      const burstBytes = Math.max(MIN_BURST_BYTES, Math.round(bitsPerSecond / 8 / 1000))
      const shaping = ['rate', `${bitsPerSecond}bit`, 'burst', `${burstBytes}b`, 'latency', QUEUE]
      await tc('add', 'dev', DEVICE, 'root', 'tbf', ...shaping)
    },
  }
}

function within(name: string): readonly string[] {
  return ['ip', 'netns', 'exec', name]
}
