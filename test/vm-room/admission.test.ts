import { expect, test } from 'vitest'
import {
  type ArrivalUse,
  admit,
  CLONE_HEADROOM_BYTES,
  type MemoryUse,
  memoryBudget,
  ownBytes,
  requireRoom,
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
          missingBytes: (neededMib - availableMib) * MIB,
        }),
        message: expect.stringContaining(`${neededMib - availableMib} MiB missing`),
      }),
    )
  }
})

/** An arrival in MiB: what it has taken, what was promised to it; null where it still fits, else what is missing. */
const arrivals: [why: string, used: MemoryUse, taken: number, promised: number, missing: number | null][] = [
  ['it fills the limit to the last byte', use({ limit: 300, host: 9999, templates: [200] }), 100, 100, null],
  ['a MiB beyond the limit', use({ limit: 300, host: 9999, templates: [200] }), 101, 100, 1],
  [
    'it has taken less than it was promised',
    use({ limit: 300, host: 9999, templates: [200] }),
    40,
    100,
    null,
  ],
  ['it has no QEMU yet', use({ limit: 300, host: 100, templates: [200] }), 0, 100, null],
  [
    'others have grown to the very limit',
    use({ limit: 300, host: 9999, vms: [20], templates: [200] }),
    80,
    100,
    null,
  ],
  ['others have grown beyond', use({ limit: 300, host: 9999, vms: [21], templates: [200] }), 80, 100, 1],
  [
    'others alone are over the limit: there is no room at all',
    use({ limit: 300, host: 9999, vms: [400] }),
    80,
    100,
    80,
  ],
  [
    'what is promised to others is not its own',
    use({ limit: 300, host: 9999, templates: [200], reserved: [30] }),
    71,
    100,
    1,
  ],
  [
    'it grew beyond its promise where there is room',
    use({ limit: 400, host: 9999, templates: [200] }),
    200,
    100,
    null,
  ],
  ['the machine has what is left of the promise', use({ limit: null, host: 60 }), 40, 100, null],
  ['the machine is short of the head-room', use({ limit: null, host: 59 }), 40, 100, 1],
  [
    'what others were promised is left aside',
    use({ limit: null, host: 90, reserved: [20, 10] }),
    40,
    100,
    null,
  ],
  ['there is too little for both', use({ limit: null, host: 90, reserved: [20, 11] }), 40, 100, 1],
  ['it used up its head-room: nothing more is asked for', use({ limit: null, host: 0 }), 150, 100, null],
]

test.each(arrivals)('an arrival: %s', (_why, used, takenMib, promisedMib, missingMib) => {
  const arrival: ArrivalUse = { takenBytes: takenMib * MIB, promisedBytes: promisedMib * MIB }
  const check = () => requireRoom(used, arrival)
  if (missingMib === null) return expect(check).not.toThrow()
  expect(check).toThrow(
    expect.objectContaining({
      code: 'NOT_ENOUGH_MEMORY',
      details: expect.objectContaining({
        missingBytes: missingMib * MIB,
        limitBytes: used.limitBytes,
      }),
    }),
  )
})

test('a byte is the boundary, of the limit and of the machine', () => {
  const arrival = { takenBytes: 100 * MIB, promisedBytes: 100 * MIB + 1 }
  const limited = use({ limit: 300, host: 1, templates: [200] })
  expect(() => requireRoom(limited, arrival)).not.toThrow()
  expect(() => requireRoom(limited, { ...arrival, takenBytes: arrival.takenBytes + 1 })).toThrow()
  expect(() => requireRoom({ ...limited, hostAvailableBytes: 1 }, arrival)).not.toThrow()
  expect(() => requireRoom({ ...limited, hostAvailableBytes: 0 }, arrival)).toThrow()
})
