/** What counts of the blackout that a user allows, and what must not. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { Capture } from '../../src/migration/capture.ts'
import { MigrationRig } from './migration-rig.ts'

const never = () => new AbortController().signal

let rig: MigrationRig
beforeAll(async () => {
  rig = await MigrationRig.start()
})
afterAll(() => rig?.[Symbol.asyncDispose]())
afterEach(() => vi.restoreAllMocks())

const run = (name: string) => rig.a.node.vms.run({ name, templateRef: 'base', nics: [] }, { signal: never() })

test('a page thread that is busy with other VMs is not taken for a long way to the destination', async () => {
  const { accepted } = Capture.prototype
  vi.spyOn(Capture.prototype, 'accepted').mockImplementation(async function (this: Capture, there) {
    await sleep(1_000)
    return accepted.call(this, there)
  })
  await run('near')
  const { outcome, error } = await rig.move('near', rig.a, 'b', { maxBlackoutMs: 1_000 })
  expect({ outcome, error }).toEqual({ outcome: 'completed', error: null })
})
