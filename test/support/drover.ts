/** The real command line and real agents, as a user would start them. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const LAUNCHER = fileURLToPath(new URL('../../src/drover.js', import.meta.url))

/** An agent probes QEMU when it starts; two of them on two busy cores take a while. */
const START_TIMEOUT_S = 60
const COMMAND_TIMEOUT_MS = 120_000

export interface DroverResult {
  code: number
  stdout: string
  stderr: string
}

export interface DroverOptions {
  env?: Record<string, string>
  /** What the command reads; nothing when absent. */
  input?: string
  timeoutMs?: number
}

/** Runs `drover ARGS` to its end. */
export async function drover(args: readonly string[], options: DroverOptions = {}): Promise<DroverResult> {
  const { env = {}, input = '', timeoutMs = COMMAND_TIMEOUT_MS } = options
  const { promise, resolve } = Promise.withResolvers<DroverResult>()
  const child = execFile(
    process.execPath,
    [LAUNCHER, ...args],
    { env: { ...process.env, ...env }, timeout: timeoutMs },
    (error, stdout, stderr) => resolve({ code: error?.killed ? -1 : (child.exitCode ?? -1), stdout, stderr }),
  )
  child.stdin!.end(input)
  return await promise
}

export interface AgentSettings {
  name: string
  /** More of `drover agent`'s flags. */
  flags?: readonly string[]
  /** Command that the agent is started through, such as `ip netns exec NAME`. */
  prefix?: readonly string[]
  /** Its data directory, somebody else's to remove; in the temporary one unless told. */
  dataDir?: string
}

/** An agent on a temporary directory, with its own data, socket and port. */
export class AgentUnderTest implements AsyncDisposable {
  readonly dir: string
  readonly socket: string
  readonly dataDir: string
  readonly name: string
  readonly #flags: readonly string[]
  readonly #prefix: readonly string[]
  #child: ChildProcess | null = null
  /** What it said on stderr. */
  log = ''

  private constructor(
    dir: string,
    { name, flags = [], prefix = [], dataDir = join(dir, 'data') }: AgentSettings,
  ) {
    this.dir = dir
    this.name = name
    this.socket = join(dir, 'run', 'agent.sock')
    this.dataDir = dataDir
    this.#flags = flags
    this.#prefix = prefix
  }

  static async start(settings: AgentSettings): Promise<AgentUnderTest> {
    const agent = new AgentUnderTest(await mkdtemp(join(tmpdir(), 'drover-')), settings)
    // As /var/lib and /run: a user that QEMU runs as can go through.
    await chmod(agent.dir, 0o711)
    try {
      await agent.start()
    } catch (error) {
      await rm(agent.dir, { recursive: true, force: true })
      throw error
    }
    return agent
  }

  /** After a stop: the next agent on the same directories. */
  async start(): Promise<void> {
    const args = ['agent', '--name', this.name, '--data-dir', this.dataDir, '--socket', this.socket]
    const listen = this.#flags.includes('--listen') ? [] : ['--listen', '/ip4/127.0.0.1/tcp/0']
    // Templates come when a test says so.
    const prefetch = this.#flags.includes('--prefetch') ? [] : ['--prefetch', '0']
    const own = [process.execPath, LAUNCHER, ...args, ...listen, ...prefetch, ...this.#flags]
    const [command, ...rest] = [...this.#prefix, ...own]
    const child = spawn(command!, rest, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#child = child
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.log += text
    })
    const ready = this.run(['status', '--wait', String(START_TIMEOUT_S)])
    const ended = once(child, 'exit').then(([code]) => `the agent ended with ${code}`)
    const outcome = await Promise.race([ready, ended])
    if (typeof outcome === 'string' || outcome.code !== 0) {
      await this.stop()
      throw new Error(`${typeof outcome === 'string' ? outcome : outcome.stderr}\n${this.log}`)
    }
  }

  get pid(): number {
    return this.#child!.pid!
  }

  /** `drover ARGS` against this agent. */
  async run(args: readonly string[], options: DroverOptions = {}): Promise<DroverResult> {
    return await drover(['--socket', this.socket, ...args], options)
  }

  /** `drover ARGS --json` that must succeed; its document. */
  async json<T = Record<string, unknown>>(...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.run([...args, '--json'])
    if (code !== 0) throw new Error(`drover ${args.join(' ')} ended with ${code}: ${stderr}\n${this.log}`)
    return JSON.parse(stdout) as T
  }

  /** @returns its exit code, null when a signal ended it */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const child = this.#child
    if (child === null) return null
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit')
      child.kill(signal)
      await exited
    }
    return child.exitCode
  }

  /** Ends its VMs and the agent, and removes everything. */
  async [Symbol.asyncDispose](): Promise<void> {
    const listed = await this.run(['vm', 'ls', '--json'])
    if (listed.code === 0) {
      const { vms } = JSON.parse(listed.stdout) as { vms: { name: string }[] }
      for (const { name } of vms) await this.run(['vm', 'stop', name, '--force'])
    }
    await this.stop()
    await rm(this.dir, { recursive: true, force: true })
  }
}
