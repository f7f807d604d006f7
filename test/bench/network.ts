import { execFile } from 'node:child_process'
import { chmod, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** One end of the link under test. */
export interface Host {
  /** IPv4 address the other end reaches it at. */
  address: string
  /** Command that runs everything of this host, such as `ip netns exec NAME`; empty for the machine itself. */
  prefix: readonly string[]
  /** Path of a QEMU that runs on this host. */
  qemu: string
}

/** A link between two hosts, whose bytes are counted at the interface. */
export interface Link extends AsyncDisposable {
  source: Host
  destination: Host
  /** Limits both directions; null: no limit. */
  limit(bitsPerSecond: number | null): Promise<void>
  /** Bytes that went over the link so far, both ways, headers included. */
  wireBytes(): Promise<number>
}

const DEVICE = 'veth0'

/**
 * Two network namespaces with a veth pair between them, made and removed
 * here. Needs root.
 *
 * @param dir - for the wrappers that start QEMU in its namespace
 */
export async function makeLink({ dir, qemu }: { dir: string; qemu: string }): Promise<Link> {
  const a = { name: `drover-a-${process.pid}`, address: '10.99.0.1' }
  const b = { name: `drover-b-${process.pid}`, address: '10.99.0.2' }
  const remove = async () => {
    for (const { name } of [a, b]) await run('ip', ['netns', 'del', name]).catch(() => {})
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
    return {
      source: await makeHost(a, dir, qemu),
      destination: await makeHost(b, dir, qemu),
      limit: async (bitsPerSecond) => {
        for (const { name } of [a, b]) await limitDevice(name, bitsPerSecond)
      },
      wireBytes: async () => {
        const { stdout } = await run('ip', ['-n', a.name, '-s', '-j', 'link', 'show', DEVICE])
        const [{ stats64 }] = JSON.parse(stdout)
        return stats64.rx.bytes + stats64.tx.bytes
      },
      [Symbol.asyncDispose]: remove,
    }
  } catch (error) {
    await remove()
    throw error
  }
}

/** Token bucket: `burst` of 1 ms at the rate, at least one segment offload's 64 KiB; a queue of 50 ms. */
async function limitDevice(namespace: string, bitsPerSecond: number | null): Promise<void> {
  const tc = (...args: string[]) => run('ip', ['netns', 'exec', namespace, 'tc', 'qdisc', ...args])
  await tc('del', 'dev', DEVICE, 'root').catch(() => {})
  if (bitsPerSecond === null) return
  const burstBytes = Math.max(65_536, Math.round(bitsPerSecond / 8 / 1000))
  const shaping = ['rate', `${bitsPerSecond}bit`, 'burst', `${burstBytes}b`, 'latency', '50ms']
  await tc('add', 'dev', DEVICE, 'root', 'tbf', ...shaping)
}

async function makeHost(end: { name: string; address: string }, dir: string, qemu: string): Promise<Host> {
  const prefix = ['ip', 'netns', 'exec', end.name]
  // drover's qemu room starts a binary by its path: this one enters the namespace first. `exec` keeps the pid.
  const wrapper = join(dir, `qemu-${end.name}`)
  await writeFile(wrapper, `#!/bin/sh\nexec ${prefix.join(' ')} ${qemu} "$@"\n`)
  await chmod(wrapper, 0o755)
  return { address: end.address, prefix, qemu: wrapper }
}

/** Both hosts are this machine: no namespaces, no limit. Bytes are all of loopback's. */
export function loopback(qemu: string): Link {
  const host: Host = { address: '127.0.0.1', prefix: [], qemu }
  return {
    source: host,
    destination: host,
    limit: async () => {},
    wireBytes: async () => {
      const line = (await readFile('/proc/net/dev', 'utf8'))
        .split('\n')
        .find((text) => text.trim().startsWith('lo:'))
      // Loopback counts each byte as received and as sent: received alone is what went through.
      return Number(line!.trim().split(/[:\s]+/)[1])
    },
    [Symbol.asyncDispose]: async () => {},
  }
}
