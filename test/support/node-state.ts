/** What a node occupies on its machine: to compare before and after. */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { AgentUnderTest } from './drover.ts'

export interface NodeState {
  /** Files and directories beside the agent's socket, and under it. */
  runFiles: string[]
  /** Directories of VMs, and of templates: drafts show here. */
  dataFiles: string[]
  /** QEMUs whose command line names the node's directory, and other children of the agent. */
  processes: string[]
  /** Ports that the agent or one of those processes listens on. */
  listeners: number[]
  /** Files that the agent holds open: guests' memory, templates, QEMU's sockets. The database's own aside. */
  openFiles: string[]
}

/** What is looked at of an agent, whoever started it. */
export type ObservedAgent = Pick<AgentUnderTest, 'pid' | 'dir' | 'dataDir' | 'socket'>

export async function nodeState(agent: ObservedAgent): Promise<NodeState> {
  const processes = await processesOf(agent)
  const pids = [agent.pid, ...processes.map(({ pid }) => pid)]
  const inodes = new Set((await Promise.all(pids.map(socketInodes))).flat())
  return {
    runFiles: (await readdir(dirname(agent.socket), { recursive: true })).sort(),
    dataFiles: [...(await list(agent, 'vms')), ...(await list(agent, 'templates'))].sort(),
    processes: processes.map(({ commandLine }) => commandLine).sort(),
    listeners: (await listeningPorts(agent.pid, inodes)).sort((a, b) => a - b),
    openFiles: await openFiles(agent),
  }
}

/** QEMUs of the node that run at this moment. */
export async function qemuPids(agent: ObservedAgent): Promise<number[]> {
  const found = await processesOf(agent)
  return found.filter(({ commandLine }) => commandLine.includes('-incoming')).map(({ pid }) => pid)
}

async function processesOf(agent: ObservedAgent): Promise<{ pid: number; commandLine: string }[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  const found = await Promise.all(
    pids.map(async (pid) => {
      if (pid === agent.pid) return []
      const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
      // After the program's name in parentheses come the state and the parent (proc(5)).
      const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
      const isOurs = commandLine.includes(`${dirname(agent.socket)}/vms/`) || parent === agent.pid
      return isOurs ? [{ pid, commandLine: commandLine.replaceAll('\0', ' ') }] : []
    }),
  )
  return found.flat()
}

async function list(agent: ObservedAgent, directory: string): Promise<string[]> {
  const names = await readdir(join(agent.dataDir, directory), { recursive: true }).catch(() => [])
  return names.map((name) => join(directory, name))
}

async function links(pid: number): Promise<string[]> {
  const fds = await readdir(`/proc/${pid}/fd`).catch(() => [])
  return Promise.all(fds.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')))
}

async function openFiles(agent: ObservedAgent): Promise<string[]> {
  const isOfTheNode = (path: string) => path.startsWith(agent.dir) || path.startsWith('/proc/')
  const database = join(agent.dataDir, 'db')
  return (await links(agent.pid)).filter((path) => isOfTheNode(path) && !path.startsWith(database)).sort()
}

async function socketInodes(pid: number): Promise<string[]> {
  return (await links(pid)).flatMap((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? [])
}

/** TCP_LISTEN of include/net/tcp_states.h, as /proc/net/tcp prints it. */
const LISTENING = '0A'

/** Of the network namespace that the process is in. */
async function listeningPorts(pid: number, inodes: ReadonlySet<string>): Promise<number[]> {
  const tables = await Promise.all(
    ['tcp', 'tcp6'].map((name) => readFile(`/proc/${pid}/net/${name}`, 'utf8')),
  )
  return tables.flatMap((table) =>
    table
      .split('\n')
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === LISTENING && inodes.has(fields[9]!))
      .map((fields) => Number.parseInt(fields[1]!.split(':')[1]!, 16)),
  )
}
