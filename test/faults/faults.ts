/**
 * What can go wrong during a move: how it is done, and how it is undone. A
 * fault is done while the failpoint holds one agent, lasts while the move goes
 * on without it, and is undone by nobody but time, as far as the agents know.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { readProcessIdentity } from '../../src/qemu/index.ts'
import type { FaultAgent } from './fault-agent.ts'
import { removeGuest, startGuest } from './guests.ts'
import type { Lab } from './lab.ts'

/** One move, as a fault sees it. */
export interface Scene {
  lab: Lab
  vm: string
  source: FaultAgent
  destination: FaultAgent
  /** The QEMU that the VM ran in before the move. */
  sourceQemuPid: number
  /** QEMUs that the destination had before the move. */
  destinationQemus: ReadonlySet<number>
  /** 0 to below 1. */
  random: () => number
}

/** How long a fault lasts: so long, or until the move's report is there but no longer than that. */
export interface Duration {
  ms: number
  untilReport: boolean
}

export interface Fault {
  name: string
  duration: Duration
  /** A move's report dies with its agent. */
  killsReport: boolean
  /** The VM may end with its QEMU. */
  killsVm: boolean
  /** Before the move begins. */
  prepare?: (scene: Scene) => Promise<void>
  inject: (scene: Scene) => Promise<void>
  undo: (scene: Scene) => Promise<void>
}

/** Longer than a destination's silence may be after a Grant (TIMEOUTS_MS.running), so that moves come into doubt. */
const CUT_MS = 12_000
const STOP_MS = 10_000
/** Time for the others to notice that somebody is gone. */
const DEAD_MS = 300
/** Moves don't take longer, whatever is slow. */
const PATIENCE_MS = 12_000
const SLOW = { delayMs: 60, bytesPerSecond: 2_000_000 }

/** Other guests of a node; one alone can't grow by as much. */
const SIBLINGS = ['sibling-1', 'sibling-2']
const WITNESS = 'witness'
/** Of each. Together more than the limit of matrix.ts leaves beside all of them. */
const GROWTH_MIB = 48

type Side = 'source' | 'destination'

const HARMLESS = { killsReport: false, killsVm: false } as const

export const nothing: Fault = {
  ...HARMLESS,
  name: 'no fault',
  duration: { ms: PATIENCE_MS, untilReport: true },
  inject: async () => {},
  undo: async () => {},
}

/** The agent dies at once, as in a power cut of it alone, and comes back. */
export function agentKilled(side: Side): Fault {
  return {
    ...HARMLESS,
    name: `${side} agent killed`,
    killsReport: side === 'source',
    duration: { ms: DEAD_MS, untilReport: false },
    inject: async (scene) => {
      await scene[side].end('SIGKILL')
      // The next one must not be held where this one was.
      await scene[side].failpoints.release()
    },
    undo: (scene) => scene[side].start(),
  }
}

/** As in an upgrade: it ends in order, and the next one takes over. */
export function agentUpgraded(side: Side): Fault {
  return {
    ...HARMLESS,
    name: `${side} agent upgraded`,
    duration: { ms: 0, untilReport: false },
    // It may be held, and end only after that.
    inject: async (scene) => scene[side].signal('SIGTERM'),
    undo: async (scene) => {
      await scene[side].end('SIGTERM')
      await scene[side].start()
    },
  }
}

export function agentStopped(side: Side, ms = STOP_MS): Fault {
  return {
    ...HARMLESS,
    name: `${side} agent stopped`,
    duration: { ms, untilReport: false },
    inject: async (scene) => scene[side].signal('SIGSTOP'),
    undo: async (scene) => scene[side].signal('SIGCONT'),
  }
}

export function qemuKilled(side: Side): Fault {
  return {
    ...HARMLESS,
    name: `${side} QEMU killed`,
    killsVm: true,
    duration: { ms: 0, untilReport: false },
    inject: async (scene) => {
      await signalQemu(scene, side, 'SIGKILL')
    },
    undo: async () => {},
  }
}

export function qemuStopped(side: Side, ms = STOP_MS): Fault {
  let stopped: number | null = null
  return {
    ...HARMLESS,
    name: `${side} QEMU stopped`,
    duration: { ms, untilReport: false },
    inject: async (scene) => {
      stopped = await signalQemu(scene, side, 'SIGSTOP')
    },
    undo: async () => {
      if (stopped !== null && (await isAlive(stopped))) process.kill(stopped, 'SIGCONT')
    },
  }
}

/** A cable that is pulled out of one direction, or of both, and put in again; then either all goes on, or a firewall has forgotten. */
export function linkCut(direction: 'to the destination' | 'to the source' | 'both ways'): Fault {
  return {
    ...HARMLESS,
    name: `link cut ${direction}`,
    duration: { ms: CUT_MS, untilReport: false },
    inject: async ({ lab, source, destination }) => {
      if (direction !== 'to the source') await lab.links.set(source.name, destination.name, { held: true })
      if (direction !== 'to the destination') {
        await lab.links.set(destination.name, source.name, { held: true })
      }
    },
    undo: async ({ lab, source, destination, random }) => {
      if (random() < 0.5) await lab.links.reset(source.name, destination.name)
      await lab.links.setBoth(source.name, destination.name, {})
    },
  }
}

export const linkSlow: Fault = {
  ...HARMLESS,
  name: 'link slow',
  duration: { ms: PATIENCE_MS, untilReport: true },
  inject: ({ lab, source, destination }) => lab.links.setBoth(source.name, destination.name, SLOW),
  undo: ({ lab, source, destination }) => lab.links.setBoth(source.name, destination.name, {}),
}

/** The next piece of what one side sends arrives with a wrong byte. */
export function byteFlipped(direction: 'to the destination' | 'to the source'): Fault {
  return {
    ...HARMLESS,
    name: `byte flipped ${direction}`,
    duration: { ms: PATIENCE_MS, untilReport: true },
    inject: async ({ lab, source, destination }) => {
      const [from, to] = direction === 'to the source' ? [destination, source] : [source, destination]
      await lab.links.set(from.name, to.name, { flip: true })
    },
    undo: ({ lab, source, destination }) => lab.links.setBoth(source.name, destination.name, {}),
  }
}

export function diskFull(side: Side): Fault {
  return {
    ...HARMLESS,
    name: `disk full at the ${side}`,
    duration: { ms: PATIENCE_MS, untilReport: true },
    inject: (scene) => scene[side].disk.fill(),
    undo: (scene) => scene[side].disk.free(),
  }
}

/**
 * A disk that was full and is free again, then a power cut: what the node said
 * it had written in between must be there.
 */
export function diskFullThenKilled(side: Side): Fault {
  return {
    ...diskFull(side),
    name: `disk full and then killed at the ${side}`,
    killsReport: side === 'source',
    undo: async (scene) => {
      const agent = scene[side]
      await agent.disk.free()
      await startGuest(scene.lab, agent, WITNESS, { dataMib: 0 })
      await agent.end('SIGKILL')
      await agent.start()
      const names = (await agent.vms()).map(({ name }) => name)
      if (!names.includes(WITNESS))
        throw new Error('a VM that was started after the disk was free is forgotten')
      await removeGuest(agent, WITNESS)
    },
  }
}

/** Other guests of the node take what the limit had left. */
export function memoryShort(side: Side): Fault {
  return {
    ...HARMLESS,
    name: `memory short at the ${side}`,
    duration: { ms: PATIENCE_MS, untilReport: true },
    prepare: async ({ lab, ...scene }) => {
      for (const name of SIBLINGS) await startGuest(lab, scene[side], name, { dataMib: 0 })
    },
    inject: async ({ lab }) => {
      for (const name of SIBLINGS) {
        const line = lab.watch.lineOf(name)
        if (line === null) throw new Error(`${name} doesn't speak`)
        await line.run(`dd if=/dev/zero of=/run/growth bs=1M count=${GROWTH_MIB} 2> /dev/null`)
      }
    },
    undo: async (scene) => {
      for (const name of SIBLINGS) await removeGuest(scene[side], name)
    },
  }
}

/** @returns its pid; null when there is none any more, or none yet */
async function signalQemu(scene: Scene, side: Side, signal: 'SIGKILL' | 'SIGSTOP'): Promise<number | null> {
  const pid = side === 'source' ? scene.sourceQemuPid : await arrivingQemu(scene)
  if (pid === null || !(await isAlive(pid))) return null
  process.kill(pid, signal)
  while (signal === 'SIGKILL' && (await isAlive(pid))) await sleep(5)
  return pid
}

async function arrivingQemu({ destination, destinationQemus }: Scene): Promise<number | null> {
  const arriving = (await destination.qemus()).filter(({ pid }) => !destinationQemus.has(pid))
  return arriving[0]?.pid ?? null
}

async function isAlive(pid: number): Promise<boolean> {
  return (await readProcessIdentity(pid)) !== null
}
