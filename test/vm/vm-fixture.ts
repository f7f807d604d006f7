import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Level } from 'level'
import { templateBoot } from '../../src/agent/template-boot.ts'
import type { VmRecord } from '../../src/domain/vm.ts'
import {
  openQemuUser,
  probeQemu,
  type QemuBinary,
  type QemuProcess,
  type QemuUser,
  QmpClient,
} from '../../src/qemu/index.ts'
import { createTemplate, TemplateStore } from '../../src/template/index.ts'
import { type Database, type VmEvent, VmService } from '../../src/vm/index.ts'
import { endOrphans } from '../../src/vm/orphans.ts'
import { testGuest } from '../support/guest.ts'
import { GuestConsole } from '../support/guest-console.ts'

const MEMORY_BYTES = 256 * 1024 ** 2
const READY_TIMEOUT_MS = 120_000
/** The test guest doesn't listen to its power button: long enough to see that, short enough to wait for. */
const POWER_DOWN_TIMEOUT_MS = 1500

export interface NodeOptions {
  memoryLimitBytes?: number | null
  /** Opened by the caller, on a disk of its own; the bench's unless told. */
  db?: Database
  preparedQemus?: number
}

/** What an agent on one data directory consists of, without a network. */
export class TestNode {
  readonly db: Database
  readonly templates: TemplateStore
  readonly vms: VmService
  readonly events: VmEvent[] = []
  readonly #runDir: string

  private constructor(
    bench: Bench,
    db: Database,
    { memoryLimitBytes = null, preparedQemus = 0 }: NodeOptions,
  ) {
    this.db = db
    this.#runDir = bench.runDir
    const inUseBy = (id: string) => this.vms.namesUsing(id)
    this.templates = new TemplateStore({ db }, { dir: join(bench.dataDir, 'templates'), inUseBy })
    this.vms = new VmService(
      { db, templates: this.templates, binary: bench.binary, onEvent: (event) => this.events.push(event) },
      {
        dataDir: bench.dataDir,
        runDir: bench.runDir,
        memoryLimitBytes,
        preparedQemus,
        powerDownTimeoutMs: POWER_DOWN_TIMEOUT_MS,
      },
    )
  }

  static async start(bench: Bench, options: NodeOptions): Promise<TestNode> {
    const db: Database = options.db ?? new Level<string, unknown>(join(bench.dir, 'db'))
    await db.open()
    const node = new TestNode(bench, db, options)
    await node.templates.start()
    await node.vms.start()
    return node
  }

  /** Ends the agent's part; VMs run on. */
  async stop(): Promise<void> {
    await this.vms.stop()
    await this.templates.stop()
    await this.db.close()
  }

  /** A record as an agent that crashed would have left it. */
  async plant(record: VmRecord): Promise<void> {
    const records = this.db.sublevel<string, VmRecord>('vms', { valueEncoding: 'json' })
    await records.put(record.spec.id, record)
  }

  kinds(): string[] {
    return this.events.map((event) => event.kind)
  }

  async console(name: string): Promise<GuestConsole> {
    const { consoleSocket } = await this.vms.show(name)
    return GuestConsole.connect(consoleSocket!)
  }

  /** Run directories that exist. */
  runDirs(): Promise<string[]> {
    return readdir(this.#runDir)
  }
}

/** Keeps a QEMU's control socket busy: it serves one client at a time, so to everybody else it looks as if it hung. */
export async function holdControl(process: QemuProcess): Promise<AsyncDisposable> {
  await process.qmp.close()
  const client = await QmpClient.connect(join(process.runDir, 'qmp.sock'))
  return { [Symbol.asyncDispose]: () => client.close() }
}

/** Directories with a template `base` in them, for one test file. */
export class Bench implements AsyncDisposable {
  readonly dir: string
  binary: QemuBinary

  private constructor(dir: string, binary: QemuBinary) {
    this.dir = dir
    this.binary = binary
  }

  /** Without a template: another node's directories. */
  static async empty(binary: QemuBinary): Promise<Bench> {
    return new Bench(await mkdtemp(join(tmpdir(), 'drover-vm-')), binary)
  }

  /** @param options.qemuUser - see `runAs` */
  static async create({
    diskPath = null,
    qemuUser = null,
    qemu,
  }: {
    diskPath?: string | null
    qemuUser?: string | null
    /** Instead of the tests' own. */
    qemu?: string | undefined
  } = {}): Promise<Bench> {
    const guest = await testGuest()
    const bench = await Bench.empty(await probeQemu(qemu ?? guest.qemu, { accelerator: 'auto' }))
    if (qemuUser !== null) await bench.runAs(qemuUser)
    const { binary } = bench
    const node = await bench.start()
    await createTemplate(node.templates, templateBoot(binary, bench.runDir), {
      name: 'base',
      machine: {
        machineType: binary.defaultMachineType,
        accelerator: binary.accelerator,
        cpuModel: 'qemu64-v1',
        cpus: 1,
        memoryBytes: MEMORY_BYTES,
        spareRootPorts: 2,
        kernelCommandLine: guest.append,
      },
      kernelPath: guest.kernel,
      initrdPath: guest.initrd,
      diskPath,
      readyPattern: /drover-guest ready/,
      readyTimeoutMs: READY_TIMEOUT_MS,
      signal: AbortSignal.timeout(READY_TIMEOUT_MS),
    })
    await node.stop()
    return bench
  }

  /** Nodes that start from now on run QEMU as this user. */
  async runAs(name: string): Promise<QemuUser> {
    // What is the agent's is opened to the user; the way to it is the test's.
    await chmod(this.dir, 0o711)
    const user = await openQemuUser(name, [this.dataDir, this.runDir])
    this.binary = await probeQemu(this.binary.path, { accelerator: 'auto', user })
    return user
  }

  get dataDir(): string {
    return join(this.dir, 'data')
  }

  get runDir(): string {
    return join(this.dir, 'run')
  }

  start(options: NodeOptions = {}): Promise<TestNode> {
    return TestNode.start(this, options)
  }

  /** Pids of the QEMUs that run in this bench. */
  async pids(): Promise<number[]> {
    const found: number[] = []
    for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
      const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      if (commandLine.includes(`path=${this.runDir}/`)) found.push(Number(pid))
    }
    return found
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endOrphans(this.runDir, new Set())
    await rm(this.dir, { recursive: true, force: true })
  }
}
