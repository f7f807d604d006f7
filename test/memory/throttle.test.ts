import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Freeze, whileFrozen } from '../../src/memory/freeze.ts'
import { Throttle } from '../../src/memory/throttle.ts'

let busy: ReturnType<typeof spawn>
beforeEach(async () => {
  busy = spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' })
  await once(busy, 'spawn')
})
afterEach(() => busy.kill('SIGKILL'))

/** State letter of proc(5). */
async function state(): Promise<string> {
  const stat = await readFile(`/proc/${busy.pid}/stat`, 'utf8')
  return stat[stat.lastIndexOf(')') + 2]!
}

/** Knows how long each hold really took: on a busy machine a look from outside misses the short runs between two. */
class TimedFreeze extends Freeze {
  longestMs = 0

  override hold(): Disposable {
    const startedMs = performance.now()
    const held = new DisposableStack()
    held.defer(() => {
      this.longestMs = Math.max(this.longestMs, performance.now() - startedMs)
    })
    held.use(super.hold())
    return held
  }
}

/** The share of the time that it was frozen for, and the longest time at a stretch. */
async function watch(ms: number): Promise<{ share: number; longestMs: number }> {
  const startMs = performance.now()
  let [seenMs, frozenMs, stretchMs, longestMs] = [startMs, 0, 0, 0]
  let was = await state()
  while (seenMs < startMs + ms) {
    await sleep(2)
    const [nowMs, is] = [performance.now(), await state()]
    // By time, not by looks: while it is frozen there are more of them.
    if (was === 'T') [frozenMs, stretchMs] = [frozenMs + nowMs - seenMs, stretchMs + nowMs - seenMs]
    if (is !== 'T') stretchMs = 0
    longestMs = Math.max(longestMs, stretchMs)
    ;[was, seenMs] = [is, nowMs]
  }
  return { share: frozenMs / (seenMs - startMs), longestMs }
}

test.each([20, 60, 80])('at %i percent a process is frozen for that share of the time', async (percent) => {
  const freeze = new TimedFreeze(busy.pid!)
  const throttle = new Throttle(freeze)
  await throttle.set(percent)
  const { share, longestMs: seenMs } = await watch(2_000)
  const { longestMs } = freeze
  console.log(JSON.stringify({ percent, share, longestMs, seenMs }))
  expect(Math.abs(share - percent / 100)).toBeLessThan(0.15)
  expect(longestMs).toBeLessThan(200)
  await throttle.stop()
  expect((await watch(300)).share).toBe(0)
})

test('an event loop that hangs leaves it frozen for no longer than it hangs', async () => {
  await using throttle = new Throttle(new Freeze(busy.pid!))
  await throttle.set(80)
  for (let i = 0; i < 5; i++) {
    const endMs = performance.now() + 90
    while (performance.now() < endMs);
    await sleep(1)
  }
  expect((await watch(1_000)).longestMs).toBeLessThan(200)
})

test('a scan and the throttle nest', async () => {
  const freeze = new Freeze(busy.pid!)
  await using throttle = new Throttle(freeze)
  await throttle.set(50)
  for (let i = 0; i < 3; i++) {
    await whileFrozen(freeze, async () => {
      expect((await watch(250)).share).toBe(1)
    })
  }
  const held = freeze.hold()
  await throttle.stop()
  await sleep(50)
  expect(await state()).toBe('T')
  held[Symbol.dispose]()
  expect(await state()).not.toBe('T')
})

test('an agent that is killed leaves the process running', async () => {
  const agent = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { Freeze } from '${new URL('../../src/memory/freeze.ts', import.meta.url)}'
       import { Throttle } from '${new URL('../../src/memory/throttle.ts', import.meta.url)}'
       await new Throttle(new Freeze(${busy.pid})).set(99)`,
    ],
    { stdio: 'ignore' },
  )
  while ((await state()) !== 'T') await sleep(5)
  const exited = once(agent, 'exit')
  agent.kill('SIGKILL')
  await exited
  await sleep(500)
  expect((await watch(300)).share).toBe(0)
})

test('a process that ends while it is throttled ends the throttle', async () => {
  const throttle = new Throttle(new Freeze(busy.pid!))
  await throttle.set(50)
  busy.kill('SIGKILL')
  await sleep(200)
  await throttle.stop()
})
