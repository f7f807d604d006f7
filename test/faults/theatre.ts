import type { FaultAgent } from './fault-agent.ts'
import { type CaseEnd, type FaultCase, runCase } from './fault-case.ts'
import { find, removeGuest, startGuest } from './guests.ts'
import { type Baseline, takeBaseline } from './invariants.ts'
import { Lab, type LabInit } from './lab.ts'

const VM = 'w'
const DATA_MIB = 4

/** One lab for many cases, one after the other: the same agents, and as far as it lives the same VM. */
export class Theatre implements AsyncDisposable {
  readonly #init: LabInit
  readonly #random: () => number
  /** What the agents said up to the last case with findings. */
  lastLogs = ''
  #lab: Lab
  #baselines: ReadonlyMap<string, Baseline>

  private constructor(
    init: LabInit,
    random: () => number,
    parts: { lab: Lab; baselines: ReadonlyMap<string, Baseline> },
  ) {
    this.#init = init
    this.#random = random
    this.#lab = parts.lab
    this.#baselines = parts.baselines
  }

  /** @returns why there is none, where namespaces can't be made */
  static async open(init: LabInit, random: () => number): Promise<Theatre | string> {
    const parts = await build(init)
    return typeof parts === 'string' ? parts : new Theatre(init, random, parts)
  }

  /** After a case with findings the next one gets a new lab: what one left must not be blamed on another. */
  async run(faultCase: FaultCase): Promise<CaseEnd> {
    const source = await this.#ownerOfRunningVm()
    await this.#lab.meet()
    const { agents } = this.#lab
    const destination = agents[(agents.indexOf(source) + 1) % agents.length]!
    const stage = {
      lab: this.#lab,
      baselines: this.#baselines,
      vm: VM,
      source,
      destination,
      random: this.#random,
    }
    const end = await runCase(stage, faultCase)
    if (end.findings.length > 0) {
      this.lastLogs = agents.map(({ name, log }) => `--- ${name}\n${log}`).join('\n')
      await this.#rebuild()
    }
    return end
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab[Symbol.asyncDispose]()
  }

  async #ownerOfRunningVm(): Promise<FaultAgent> {
    const [known] = await find(this.#lab, VM)
    if (known?.vm.state === 'running') return known.agent
    if (known !== undefined) await removeGuest(known.agent, VM)
    const [first] = this.#lab.agents
    await startGuest(this.#lab, first!, VM, { dataMib: DATA_MIB })
    return first!
  }

  async #rebuild(): Promise<void> {
    await this.#lab[Symbol.asyncDispose]()
    const parts = await build(this.#init)
    if (typeof parts === 'string') throw new Error(parts)
    this.#lab = parts.lab
    this.#baselines = parts.baselines
  }
}

async function build(
  init: LabInit,
): Promise<{ lab: Lab; baselines: ReadonlyMap<string, Baseline> } | string> {
  const lab = await Lab.start(init)
  if (typeof lab === 'string') return lab
  const baselines = new Map<string, Baseline>()
  for (const agent of lab.agents) baselines.set(agent.name, await takeBaseline(agent, lab.templateId))
  return { lab, baselines }
}
