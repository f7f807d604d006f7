/**
 * A real node in a process of its own, to be killed or to live in a network
 * namespace: `node mesh-process.ts NAME '{"listen":[...],"joinToken":...}'`.
 * Says each change of its directory and members as a line of JSON.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { startNode, type TestNodeOptions } from './mesh-pair.ts'

interface Line {
  token: string
  peerId: string
  /** Names of the nodes in its directory. */
  directory: string[]
  /** Names of the members it is connected to. */
  connected: string[]
}

export class MeshProcess implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #lines: Interface
  /** What it said last. */
  last: Line | null = null

  private constructor(child: ChildProcess) {
    this.#child = child
    this.#lines = createInterface({ input: child.stdout! })
    this.#lines.on('line', (line) => {
      this.last = JSON.parse(line) as Line
    })
  }

  /** @param prefix - command that it is started through, such as `ip netns exec NAME` */
  static async start(
    name: string,
    options: Pick<TestNodeOptions, 'joinToken' | 'listen' | 'beatMs' | 'mdns' | 'dataDir'>,
    prefix: readonly string[] = [],
  ): Promise<MeshProcess> {
    const self = fileURLToPath(import.meta.url)
    const [command, ...args] = [...prefix, process.execPath, self, name, JSON.stringify(options)]
    const child = new MeshProcess(spawn(command!, args, { stdio: ['pipe', 'pipe', 'inherit'] }))
    await child.until(() => true)
    return child
  }

  /** Until it says something that fits. */
  async until(condition: (line: Line) => boolean, timeoutMs = 30_000): Promise<Line> {
    const signal = AbortSignal.timeout(timeoutMs)
    while (this.last === null || !condition(this.last)) await once(this.#lines, 'line', { signal })
    return this.last
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.kill(signal)
    await exited
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill('SIGTERM')
  }
}

if (import.meta.main) {
  const [, , name, options] = process.argv
  const node = await startNode(name!, JSON.parse(options!))
  const say = () => {
    const { mesh } = node
    const connected = mesh.members().flatMap((member) => (member.connected ? [member.name] : []))
    const directory = mesh.directory().map((view) => view.name)
    console.log(JSON.stringify({ token: mesh.token(), peerId: mesh.peerId, directory, connected }))
  }
  node.mesh.onDirectory(say)
  node.mesh.onMember(say)
  say()
  // Ends with the test that started it, whatever becomes of that.
  process.stdin.on('end', () => process.exit(1)).resume()
  await once(process, 'SIGTERM')
  await node[Symbol.asyncDispose]()
  process.exit(0)
}
