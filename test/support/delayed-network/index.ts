/**
 * Hosts of our own, each as far from each other one as the test wants:
 *
 *     namespace of a host               this process             namespace of a host
 *     tap0 --- QEMU, no machine ---\                     /--- QEMU, no machine --- tap0
 *     10.98.0.1                     unix sockets, a switch                         10.98.0.2
 *
 * Packets themselves are delayed, a connect's first one too, so what an agent
 * measures is what it would on such a network. The kernel's own netem may be
 * missing; a QEMU without a machine carries frames between a tap device and a
 * socket, and is there wherever drover is.
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { namespaceName, removeNamespace } from '../../bench/namespaces.ts'
import { FrameSwitch, macOf } from './frame-switch.ts'

const run = promisify(execFile)

const DEVICE = 'tap0'
const START_TIMEOUT_MS = 20_000

export interface DelayedHost {
  address: string
  /** Command that runs everything of this host. */
  prefix: readonly string[]
}

export class DelayedNetwork implements AsyncDisposable {
  readonly #names: readonly string[]
  readonly #switch: FrameSwitch
  readonly #cleanup: AsyncDisposableStack

  private constructor(names: readonly string[], frames: FrameSwitch, cleanup: AsyncDisposableStack) {
    this.#names = names
    this.#switch = frames
    this.#cleanup = cleanup
  }

  /** Why this machine can't have such a network; null: it can. */
  static async whyNot(): Promise<string | null> {
    const probe = namespaceName('probe')
    try {
      await makeNamespace(probe, 1)
      return null
    } catch (error) {
      return `no network namespaces with tap devices: ${(error as Error).message.trim()}`
    } finally {
      await run('ip', ['netns', 'del', probe]).catch(() => {})
    }
  }

  /**
   * No way is delayed yet.
   *
   * @param names - of hosts, at most 254
   * @param qemu - any that drover works with
   */
  static async start(names: readonly string[], qemu: string): Promise<DelayedNetwork> {
    await using cleanup = new AsyncDisposableStack()
    const dir = await mkdtemp(join(tmpdir(), 'drover-network-'))
    cleanup.defer(() => rm(dir, { recursive: true, force: true }))
    const frames = cleanup.use(new FrameSwitch())
    for (const [index, name] of names.entries()) {
      const [host, namespace, path] = [index + 1, namespaceName(name), join(dir, `${index}.sock`)]
      cleanup.defer(() => removeNamespace(namespace))
      await makeNamespace(namespace, host)
      const plugged = frames.plugIn(host, path, AbortSignal.timeout(START_TIMEOUT_MS))
      await Promise.race([plugged, runAdaptor(namespace, path, qemu)])
    }
    return new DelayedNetwork(names, frames, cleanup.move())
  }

  host(name: string): DelayedHost {
    return {
      address: addressOf(this.#number(name)),
      prefix: ['ip', 'netns', 'exec', namespaceName(name)],
    }
  }

  /** From now on; each direction is half of it. */
  setRoundTrip(one: string, other: string, roundTripMs: number): void {
    const [a, b] = [this.#number(one), this.#number(other)]
    this.#switch.setDelay(a, b, roundTripMs / 2)
    this.#switch.setDelay(b, a, roundTripMs / 2)
  }

  /** Ends everything that runs on the hosts. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.disposeAsync()
  }

  #number(name: string): number {
    const index = this.#names.indexOf(name)
    if (index < 0) throw new RangeError(`no such host: ${name}`)
    return index + 1
  }
}

function addressOf(host: number): string {
  return `10.98.0.${host}`
}

async function makeNamespace(name: string, host: number): Promise<void> {
  await run('ip', ['netns', 'add', name])
  const ip = (...args: string[]) => run('ip', ['-n', name, ...args])
  await ip('tuntap', 'add', DEVICE, 'mode', 'tap')
  await ip('link', 'set', DEVICE, 'address', macOf(host))
  await ip('addr', 'add', `${addressOf(host)}/24`, 'dev', DEVICE)
  await ip('link', 'set', 'lo', 'up')
  await ip('link', 'set', DEVICE, 'up')
}

/**
 * Carries frames between the namespace's tap device and a unix socket, which
 * belongs to no namespace. Not stopped (`-S`): QEMU carries none then.
 *
 * @throws when it ends before it is killed with its namespace
 */
async function runAdaptor(namespace: string, path: string, qemu: string): Promise<never> {
  const tap = ['-netdev', `tap,id=tap,ifname=${DEVICE},script=no,downscript=no`]
  const stream = ['-netdev', `stream,id=stream,addr.type=unix,addr.path=${path}`]
  const hub = ['tap', 'stream'].flatMap((end) => ['-netdev', `hubport,hubid=0,id=to-${end},netdev=${end}`])
  const machine = ['-machine', 'none', '-nodefaults', '-display', 'none']
  const child = spawn('ip', ['netns', 'exec', namespace, qemu, ...machine, ...tap, ...stream, ...hub], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const words = child.stderr.setEncoding('utf8').toArray()
  await once(child, 'exit')
  throw new Error(`the network's QEMU ended: ${(await words).join('')}`)
}
