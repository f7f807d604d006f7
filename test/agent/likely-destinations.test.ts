import { expect, test } from 'vitest'
import { LikelyDestinations } from '../../src/agent/likely-destinations.ts'
import type { VmRecord, VmState } from '../../src/domain/vm.ts'
import { NEVER_MOVED, someVmSpec } from '../support/vm-spec.ts'

const RUNNING: VmState = { kind: 'running', process: { pid: 1, startTicks: 1 } as never, paused: false }
const STOPPED: VmState = { kind: 'stopped', reason: 'its user stopped it', doubt: null }

function record(templateId: string, state: VmState): VmRecord {
  const spec = someVmSpec({ templateId })
  return { spec, epoch: 1, state, runDirName: spec.id, createdAtMs: 0, coolDown: NEVER_MOVED }
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
