import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { StatusReply, VmReply } from '../../src/agent/api-schema.ts'
import type { ConfigFile } from '../../src/agent/config.ts'
import { AgentClient } from '../../src/cli/client.ts'
import { LAUNCHER } from '../support/drover.ts'
import { FailpointControl } from './failpoint-control.ts'
import { SmallDisk } from './small-disk.ts'

const START_TIMEOUT_MS = 60_000
const START_POLL_MS = 50
/** A SIGTERM that is not obeyed in this time is a bug. */
const STOP_TIMEOUT_MS = 30_000

export interface FaultAgentSettings {
  name: string
  /** Made here: `run`, `data`, `fail` are below it. */
  dir: string
  /** Command that runs everything of this node, such as `ip netns exec NAME`. */
  prefix: readonly string[]
  diskBytes: number
  config: Omit<ConfigFile, 'name' | 'dataDir' | 'socket'>
}

/** A real agent that can be killed, stopped, started again, and held at a boundary; its data is on a small disk of its own. */
export class FaultAgent implements AsyncDisposable {
  readonly name: string
  readonly dir: string
  readonly socket: string
  readonly dataDir: string
  readonly failpoints: FailpointControl
  readonly disk: SmallDisk
  readonly client: AgentClient
  readonly #settings: FaultAgentSettings
  readonly #closing = new AbortController()
  #child: ChildProcess | null = null
  /** Its present process ended without having been told to. */
  #isMeantToRun = false
  /** It was asked to end in order. */
  #isEnding = false
  /** What all its processes said. */
  log = ''
  peerId = ''

  constructor(settings: FaultAgentSettings) {
    const { name, dir } = settings
    this.#settings = settings
    this.name = name
    this.dir = dir
    this.dataDir = join(dir, 'data')
    this.socket = join(dir, 'run', 'agent.sock')
    this.failpoints = new FailpointControl(join(dir, 'fail'))
    this.disk = new SmallDisk(this.dataDir, settings.diskBytes)
    this.client = new AgentClient({ socket: this.socket, signal: this.#closing.signal })
  }

  /** @throws when it doesn't answer in time, with its log */
  async start(): Promise<void> {
    const { prefix, config } = this.#settings
    const { name, dataDir, socket } = this
    const path = join(this.dir, 'config.json')
    await writeFile(
      path,
      JSON.stringify({ prefetchLimitBytes: 0, ...config, name, dataDir, socket } satisfies ConfigFile),
    )
    const environment = Object.entries(this.failpoints.environment()).map(([key, value]) => `${key}=${value}`)
    const [command, ...args] = [...prefix, 'env', ...environment, process.execPath, LAUNCHER]
    const child = spawn(command!, [...args, 'agent', '--config', path], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    this.#child = child
    this.#isMeantToRun = true
    this.#isEnding = false
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.log += text
    })
    const deadlineMs = performance.now() + START_TIMEOUT_MS
    while (!this.isDead && performance.now() < deadlineMs) {
      try {
        this.peerId = (await this.status()).peerId
        return
      } catch {
        await sleep(START_POLL_MS)
      }
    }
    throw new Error(`agent ${name} did not start:\n${this.log.slice(-2000)}`)
  }

  get pid(): number {
    return this.#child!.pid!
  }

  get isDead(): boolean {
    return this.#child === null || this.#child.exitCode !== null || this.#child.signalCode !== null
  }

  /** It ended by itself. */
  get hasCrashed(): boolean {
    return this.isDead && this.#isMeantToRun
  }

  /** Ends the agent, and only it. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    this.#isMeantToRun = false
    if (this.isDead) return
    const exited = once(this.#child!, 'exit', { signal: AbortSignal.timeout(STOP_TIMEOUT_MS) })
    // A second SIGTERM would end it at once.
    if (signal !== 'SIGTERM' || !this.#isEnding) this.#child!.kill(signal)
    await exited
  }

  /** @param signal - after a SIGTERM, `end` waits for it */
  signal(signal: 'SIGSTOP' | 'SIGCONT' | 'SIGTERM'): void {
    if (signal === 'SIGTERM') {
      this.#isMeantToRun = false
      this.#isEnding = true
    }
    this.#child!.kill(signal)
  }

  status(): Promise<StatusReply> {
    return this.client.request<StatusReply>('GET', '/status')
  }

  async vms(): Promise<VmReply[]> {
    return (await this.client.request<{ vms: VmReply[] }>('GET', '/vms')).vms
  }

  /** Names of the directories of its QEMUs, arriving ones too. */
  async runDirs(): Promise<string[]> {
    return await readdir(join(this.dir, 'run', 'vms')).catch(() => [])
  }

  /** Its QEMUs, found by their command lines: also those that the agent knows nothing of. */
  async qemus(): Promise<{ pid: number; runDirName: string }[]> {
    const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
    const marks = await Promise.all(
      pids.map(async (pid) => {
        const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
        const at = commandLine.indexOf(`path=${this.dir}/run/vms/`)
        if (at < 0) return []
        const [, runDirName = ''] = /\/run\/vms\/([^/]+)\//.exec(commandLine.slice(at)) ?? []
        return [{ pid: Number(pid), runDirName }]
      }),
    )
    return marks.flat()
  }

  /** Ends the agent and its QEMUs; their files go with the lab's directory. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort()
    if (!this.isDead) this.signal('SIGCONT')
    await this.end('SIGKILL')
    for (const { pid } of await this.qemus()) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It has ended since it was looked for.
      }
    }
  }
}
