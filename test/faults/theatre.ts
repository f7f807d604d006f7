import type { FaultAgent } from './fault-agent.ts'
import { type CaseEnd, caseName, type FaultCase, runCase } from './fault-case.ts'
import { errorText } from './findings.ts'
import { find, removeGuest, startGuest } from './guests.ts'
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

  private constructor(init: LabInit, random: () => number, lab: Lab) {
    this.#init = init
    this.#random = random
    this.#lab = lab
  }

  /** @returns why there is none, where namespaces can't be made */
  static async open(init: LabInit, random: () => number): Promise<Theatre | string> {
    const lab = await Lab.start(init)
    return typeof lab === 'string' ? lab : new Theatre(init, random, lab)
  }

  /** After a case with findings the next one gets a new lab: what one left must not be blamed on another. */
  async run(faultCase: FaultCase): Promise<CaseEnd> {
    const end = await this.#play(faultCase).catch(
      (error: unknown): CaseEnd => ({
        name: caseName(faultCase),
        outcome: 'not played to its end',
        owner: 'nobody',
        ms: 0,
        findings: [{ kind: 'unexpected', text: errorText(error) }],
      }),
    )
    if (end.findings.length > 0) {
      this.lastLogs = this.#lab.agents.map(({ name, log }) => `--- ${name}\n${log}`).join('\n')
      await this.#rebuild()
    }
    return end
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab[Symbol.asyncDispose]()
  }

  async #play(faultCase: FaultCase): Promise<CaseEnd> {
    const source = await this.#ownerOfRunningVm()
    await this.#lab.meet()
    const { agents } = this.#lab
    const destination = agents[(agents.indexOf(source) + 1) % agents.length]!
    const stage = { lab: this.#lab, vm: VM, others: [], source, destination, random: this.#random }
    return await runCase(stage, faultCase, { thorough: true })
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
    const lab = await Lab.start(this.#init)
    if (typeof lab === 'string') throw new Error(lab)
    this.#lab = lab
  }
}
