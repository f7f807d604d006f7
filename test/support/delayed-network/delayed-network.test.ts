/** The network alone: hosts, and what a connect between them takes. Packets are real, so root is needed. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { DelayedNetwork } from './index.ts'

const whyNot = await DelayedNetwork.whyNot()
if (whyNot !== null) console.log(`skipped: ${whyNot}`)
const QEMU = process.env.DROVER_TEST_QEMU ?? 'qemu-system-x86_64'
const NEAR_MS = 20
const FAR_MS = 120
/** Of two timers and as many processes, beside other tests. */
const LATE_MS = 60

/** ms that a connect takes which is refused, three times: the first one asks for the address. */
const CONNECTS = `
  import { connect } from 'node:net'
  import { once } from 'node:events'
  for (let i = 0; i < 3; i++) {
    const startMs = performance.now()
    await once(connect({ host: process.argv[1], port: 9 }), 'connect').catch(({ code }) => {
      if (code !== 'ECONNREFUSED') throw code
    })
    console.log(performance.now() - startMs)
  }`

test.skipIf(whyNot !== null)('a connect takes the round trip of its way, as it is then', async () => {
  await using network = await DelayedNetwork.start(['a', 'b', 'c'], QEMU)
  const fastestMs = async (from: string, to: string) => {
    const [command, ...args] = [...network.host(from).prefix, process.execPath]
    const script = ['--input-type=module', '-e', CONNECTS, network.host(to).address]
    const { stdout } = await promisify(execFile)(command!, [...args, ...script])
    return Math.min(...stdout.trim().split('\n').map(Number))
  }
  const expectAbout = (ms: number, roundTripMs: number) => {
    // Timers count whole milliseconds.
    expect(ms).toBeGreaterThanOrEqual(roundTripMs - 2)
    expect(ms).toBeLessThan(roundTripMs + LATE_MS)
  }
  network.setRoundTrip('a', 'b', NEAR_MS)
  network.setRoundTrip('a', 'c', FAR_MS)
  expectAbout(await fastestMs('a', 'b'), NEAR_MS)
  expectAbout(await fastestMs('c', 'a'), FAR_MS)
  network.setRoundTrip('a', 'b', FAR_MS)
  expectAbout(await fastestMs('a', 'b'), FAR_MS)
})
