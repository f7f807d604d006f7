import { expect, test } from 'vitest'
import {
  admit,
  CLONE_HEADROOM_BYTES,
  type MemoryUse,
  memoryBudget,
  ownBytes,
} from '../../src/vm/admission.ts'

const MIB = 1024 ** 2
const HEADROOM_MIB = CLONE_HEADROOM_BYTES / MIB

/** What a node uses, in MiB. */
function use(mib: {
  limit: number | null
  host: number
  vms?: number[]
  templates?: number[]
  reserved?: number[]
}): MemoryUse {
  const bytes = (numbers: number[] = []) => numbers.map((number) => number * MIB)
  return {
    limitBytes: mib.limit === null ? null : mib.limit * MIB,
    hostAvailableBytes: mib.host * MIB,
    vmBytes: bytes(mib.vms),
    templateBytes: bytes(mib.templates),
    reservedBytes: bytes(mib.reserved),
  }
}

const budgets: [why: string, used: MemoryUse, availableMib: number][] = [
  ['an empty node without a limit has what the machine has', use({ limit: null, host: 1000 }), 1000],
  ['an empty node has its limit', use({ limit: 600, host: 1000 }), 600],
  ['a limit above what the machine has left is worth nothing', use({ limit: 5000, host: 1000 }), 1000],
  [
    'a template counts once, however many VMs',
    use({ limit: 600, host: 9999, vms: [20, 30, 40], templates: [200] }),
    310,
  ],
  ['two templates count both', use({ limit: 600, host: 9999, vms: [20, 30], templates: [200, 100] }), 250],
  [
    'without a limit what runs is in what the machine has left',
    use({ limit: null, host: 700, vms: [100], templates: [200] }),
    700,
  ],
  ['reservations count against the limit', use({ limit: 600, host: 9999, reserved: [100, 50] }), 450],
  ['reservations count against the machine too', use({ limit: null, host: 700, reserved: [100, 50] }), 550],
  ['grown beyond the limit there is nothing, not less', use({ limit: 100, host: 9999, vms: [400] }), 0],
  ['a machine without memory has nothing', use({ limit: 600, host: 10, reserved: [100] }), 0],
]

test.each(budgets)('%s', (_why, used, availableMib) => {
  const budget = memoryBudget(used)
  expect(budget.availableBytes).toBe(availableMib * MIB)
  expect(budget.limitBytes).toBe(used.limitBytes)
})

test('committed is templates and VMs, reserved is apart', () => {
  const used = use({ limit: 1000, host: 9999, vms: [20, 30], templates: [200], reserved: [64, 10] })
  expect(memoryBudget(used)).toMatchObject({ committedBytes: 250 * MIB, reservedBytes: 74 * MIB })
})

const needs: [privatePages: number, neededMib: number][] = [
  [0, HEADROOM_MIB],
  [256, HEADROOM_MIB + 1],
  [25_600, HEADROOM_MIB + 100],
  [0xffff_ffff, HEADROOM_MIB + (0xffff_ffff * 4096) / MIB],
]

test.each(needs)('a VM that brings %i pages needs %f MiB', (privatePages, neededMib) => {
  expect(ownBytes(privatePages)).toBe(neededMib * MIB)
})

const verdicts: [availableMib: number, neededMib: number, admitted: boolean][] = [
  [100, 99, true],
  [100, 100, true],
  [100, 101, false],
  [0, 1, false],
]

test.each(verdicts)('%i MiB available, %i needed: admitted is %s', (availableMib, neededMib, admitted) => {
  const budget = memoryBudget(use({ limit: availableMib, host: 9999 }))
  const check = () => admit(budget, neededMib * MIB)
  if (admitted) expect(check).not.toThrow()
  else {
    expect(check).toThrow(
      expect.objectContaining({
        code: 'NOT_ENOUGH_MEMORY',
        outcome: 'refused',
        details: expect.objectContaining({
          neededBytes: neededMib * MIB,
          availableBytes: availableMib * MIB,
        }),
      }),
    )
  }
})
