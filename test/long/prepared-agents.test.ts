/** Two agents, the second with `--prepare`: a move finds QEMU started and the connection there. */
import { readdir, readFile, readlink } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { AgentUnderTest } from '../support/drover.ts'
import { inGuest, move, runVm, showVm, TwoNodes } from '../support/two-nodes.ts'

const PREPARED_WITHIN_MS = 20_000

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '128M', flags: ['--prepare'] })
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

/** Pids of the QEMUs that the agent told of as ready, in order. */
function preparedPids(agent: AgentUnderTest): number[] {
  const lines = agent.log.split('\n').filter((line) => line.includes('"qemu-prepared"'))
  return lines.map((line) => (JSON.parse(line) as { pid: number }).pid)
}

/** TCP connections of an agent, by the inodes of its sockets (proc(5), /proc/net/tcp; state 01: established). */
async function connections(agent: AgentUnderTest): Promise<string[]> {
  const table = (await readFile(`/proc/${agent.pid}/net/tcp`, 'utf8')).split('\n').slice(1)
  const established = new Set(
    table.map((line) => line.trim().split(/\s+/)).flatMap((cells) => (cells[3] === '01' ? [cells[9]] : [])),
  )
  const fds = await readdir(`/proc/${agent.pid}/fd`)
  const links = await Promise.all(fds.map((fd) => readlink(`/proc/${agent.pid}/fd/${fd}`).catch(() => '')))
  return links.flatMap((link) => {
    const inode = /^socket:\[(\d+)\]$/.exec(link)?.[1]
    return inode !== undefined && established.has(inode) ? [inode] : []
  })
}

test('a move arrives in the QEMU that is ready, dials nobody, and the next one is made ready', async () => {
  const { source, destination } = nodes
  await expect.poll(() => preparedPids(destination).length, { timeout: PREPARED_WITHIN_MS }).toBe(1)
  const [pid] = preparedPids(destination)
  await runVm(source, 'web-1')
  await inGuest(source, 'web-1', 'workload data 4 seed')
  const before = [await connections(source), await connections(destination)]
  expect(before.map(({ length }) => length)).toEqual([1, 1])

  const { durationsMs } = await move(source, 'web-1', destination)
  console.log(JSON.stringify(durationsMs))
  expect([await connections(source), await connections(destination)]).toEqual(before)
  expect((await showVm(destination, 'web-1')).pid).toBe(pid)
  expect(await inGuest(destination, 'web-1', 'workload check')).toBe('ok')
  await expect.poll(() => preparedPids(destination).length, { timeout: PREPARED_WITHIN_MS }).toBe(2)

  const { durationsMs: back } = await move(destination, 'web-1', source)
  console.log(JSON.stringify(back))
})
