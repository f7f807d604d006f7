import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { LikelyDestinations } from '../../src/agent/likely-destinations.ts'
import { NO_COOL_DOWN } from '../../src/domain/cool-down.ts'
import type { VmRecord, VmState } from '../../src/domain/vm.ts'

const RUNNING: VmState = { kind: 'running', process: { pid: 1, startTicks: 1 } as never, paused: false }
const STOPPED: VmState = { kind: 'stopped', reason: 'its user stopped it', doubt: null }

function record(templateId: string, state: VmState): VmRecord {
  const id = randomUUID()
  const spec = {
    id,
    name: id,
    templateId,
    generationId: randomUUID(),
    nics: [],
    hasDisk: false,
    clients: [],
    auto: false,
  }
  return { spec, epoch: 1, state, runDirName: id, createdAtMs: 0, coolDown: { ...NO_COOL_DOWN, atMs: 0 } }
}

test('those that hold the templates of running VMs, of most VMs first, each once', () => {
  const announcers: Record<string, string[]> = { web: ['a', 'b'], db: ['c', 'b'], old: ['d'] }
  const vms = [record('web', RUNNING), record('db', RUNNING), record('db', RUNNING), record('old', STOPPED)]
  const destinations = new LikelyDestinations({
    mesh: { announcersOf: (id) => announcers[id] ?? [], keepWarm: () => {} },
    vms: { list: () => vms },
  })
  expect(destinations.peers()).toEqual(['c', 'b', 'a'])
})
