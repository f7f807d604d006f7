/** What counts of the blackout that a user allows, and what must not. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { Capture } from '../../src/migration/capture.ts'
import { MIGRATE_PROTOCOL } from '../../src/migration/index.ts'
import { MigrationRig, type Tamper } from './migration-rig.ts'

const never = () => new AbortController().signal

let rig: MigrationRig
beforeAll(async () => {
  rig = await MigrationRig.start()
})
afterAll(() => rig?.[Symbol.asyncDispose]())
afterEach(() => {
  vi.restoreAllMocks()
  rig.tamper = (_, channel) => channel
})

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

/** What the destination says takes its time to come here. */
function farAway(rttMs: number): Tamper {
  return (protocol, channel) => {
    if (protocol !== MIGRATE_PROTOCOL) return channel
    const receive = channel.receive.bind(channel)
    channel.receive = async (options) => {
      const message = await receive(options)
      await sleep(rttMs)
      return message
    }
    return channel
  }
}

test('a destination that is too far away is not taken for a guest that writes too fast', async () => {
  rig.tamper = farAway(150)
  await run('calm')
  const { error } = await rig.move('calm', rig.a, 'b', { maxBlackoutMs: 200 })
  expect(error).toMatchObject({
    code: 'BLACKOUT_TOO_LONG',
    message: expect.stringMatching(/hand-over alone/),
  })
})

test('a Grant leaves only while its way there still fits', async () => {
  const maxBlackoutMs = 450
  rig.tamper = farAway(150)
  await run('far')
  // What follows the stop is told of twice before the Grant, and once after it.
  const { outcome, error, durationsMs } = await rig.move('far', rig.a, 'b', { maxBlackoutMs })
  expect({ outcome, code: error?.code }).toEqual({ outcome: 'failed', code: 'BLACKOUT_TOO_LONG' })
  expect(error!.message).toMatch(/took longer than foreseen/)
  expect(durationsMs.blackout).toBeLessThan(maxBlackoutMs)
  expect((await rig.a.node.vms.show('far')).runState).toBe('running')
})
