import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { chmod, readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { LinkRate } from './limit.ts'
import { namespaceName, removeNamespace } from './namespaces.ts'

const run = promisify(execFile)

/** An IPv4 address and a TCP port. */
export interface Door {
  address: string
  port: number
}

/** One end of the link under test. */
export interface Host {
  /** Where its agent listens. */
  agent: Door
  /** Where the other end finds that; not always the same. */
  door: Door
  /** Command that runs everything of this host, such as `ip netns exec NAME`; empty for the machine itself. */
  prefix: readonly string[]
  /** Path of a QEMU that runs on this host. */
  qemu: string
}

/** A link between two hosts, whose bytes are counted at the interface. */
export interface Link extends AsyncDisposable {
  source: Host
  destination: Host
  /** As it is now. */
  readonly rate: LinkRate
  /** Limits both directions; null: no limit. */
  limit(bitsPerSecond: number | null): Promise<void>
  /** Bytes that went over the link so far, both ways, headers included. */
  wireBytes(): Promise<number>
  /** Where a QEMU of the destination listens, and where one of the source finds it. */
  incoming(): Promise<{ listen: string; dial: string }>
}

export interface LinkInit {
  /** For the wrappers that start QEMU in its namespace. */
  dir: string
  qemu: string
}

/** Every agent's port: each has an address of its own. */
export const AGENT_PORT = 4710
export const QEMU_PORT = 4900
const DEVICE = 'veth0'

/** Two network namespaces with a veth pair between them, made and removed here. Needs root. */
export async function makeLink({ dir, qemu }: LinkInit): Promise<Link> {
  const a = { name: namespaceName('a'), address: '10.99.0.1' }
  const b = { name: namespaceName('b'), address: '10.99.0.2' }
  const remove = async () => {
    for (const { name } of [a, b]) await removeNamespace(name)
  }
  try {
    for (const { name } of [a, b]) await run('ip', ['netns', 'add', name])
    const peer = ['peer', 'name', DEVICE, 'netns', b.name]
    await run('ip', ['link', 'add', DEVICE, 'netns', a.name, 'type', 'veth', ...peer])
    for (const { name, address } of [a, b]) {
      await run('ip', ['-n', name, 'addr', 'add', `${address}/24`, 'dev', DEVICE])
      await run('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
      await run('ip', ['-n', name, 'link', 'set', DEVICE, 'up'])
    }
    const hosts = await Promise.all(
      [a, b].map(({ name, address }) => {
        const agent = { address, port: AGENT_PORT }
        return makeHost({ prefix: ['ip', 'netns', 'exec', name], agent, door: agent }, { dir, qemu })
      }),
    )
    const [source, destination] = hosts as [Host, Host]
    const rate: LinkRate = { bitsPerSecond: null, roundTripMs: 0 }
    const uri = `tcp:${b.address}:${QEMU_PORT}`
    return {
      source,
      destination,
      rate,
      limit: async (bitsPerSecond) => {
        for (const { prefix } of hosts) await limitDevice(prefix, bitsPerSecond)
        rate.bitsPerSecond = bitsPerSecond
      },
      wireBytes: () => interfaceBytes(source.prefix),
      incoming: async () => ({ listen: uri, dial: uri }),
      [Symbol.asyncDispose]: remove,
    }
  } catch (error) {
    await remove()
    throw error
  }
}

/** What a host's interface has received and sent. */
export async function interfaceBytes(prefix: readonly string[]): Promise<number> {
  const [command, ...rest] = [...prefix, 'ip', '-s', '-j', 'link', 'show', DEVICE]
  const { stdout } = await run(command!, rest)
  const [{ stats64 }] = JSON.parse(stdout)
  return stats64.rx.bytes + stats64.tx.bytes
}

/** Token bucket: `burst` of 1 ms at the rate, at least one segment offload's 64 KiB; a queue of 50 ms. */
async function limitDevice(prefix: readonly string[], bitsPerSecond: number | null): Promise<void> {
  const [command, ...rest] = [...prefix, 'tc', 'qdisc']
  const tc = (...args: string[]) => run(command!, [...rest, ...args])
  await tc('del', 'dev', DEVICE, 'root').catch(() => {})
  if (bitsPerSecond === null) return
  const burstBytes = Math.max(65_536, Math.round(bitsPerSecond / 8 / 1000))
  const shaping = ['rate', `${bitsPerSecond}bit`, 'burst', `${burstBytes}b`, 'latency', '50ms']
  await tc('add', 'dev', DEVICE, 'root', 'tbf', ...shaping)
}

export async function makeHost(end: Omit<Host, 'qemu'>, { dir, qemu }: LinkInit): Promise<Host> {
  // drover's qemu room starts a binary by its path: this one enters the namespace first. `exec` keeps the pid.
  const wrapper = join(dir, `qemu-${end.agent.address}`)
  await writeFile(wrapper, `#!/bin/sh\nexec ${end.prefix.join(' ')} ${qemu} "$@"\n`)
  await chmod(wrapper, 0o755)
  return { ...end, qemu: wrapper }
}

/** Both hosts are this machine: no namespaces, no limit. Bytes are all of loopback's. */
export async function loopback({ qemu }: Pick<LinkInit, 'qemu'>): Promise<Link> {
  const host = async (): Promise<Host> => {
    const agent = { address: '127.0.0.1', port: await freePort() }
    return { agent, door: agent, prefix: [], qemu }
  }
  const [source, destination] = [await host(), await host()]
  return {
    source,
    destination,
    rate: { bitsPerSecond: null, roundTripMs: 0 },
    limit: async () => {},
    wireBytes: async () => {
      const line = (await readFile('/proc/net/dev', 'utf8'))
        .split('\n')
        .find((text) => text.trim().startsWith('lo:'))
      // Loopback counts each byte as received and as sent: received alone is what went through.
      return Number(line!.trim().split(/[:\s]+/)[1])
    },
    incoming: async () => {
      const uri = `tcp:${source.agent.address}:${await freePort()}`
      return { listen: uri, dial: uri }
    },
    [Symbol.asyncDispose]: async () => {},
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0)
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
