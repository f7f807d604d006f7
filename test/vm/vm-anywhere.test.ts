/** Commands on a VM from nodes that don't have it: real agents, real QEMU. */
import { once } from 'node:events'
import { readdir, stat } from 'node:fs/promises'
import { type AddressInfo, createConnection, createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { EventReply, MeshVmsReply, VmShowReply } from '../../src/agent/api-schema.ts'
import { AgentClient } from '../../src/cli/client.ts'
import type { MigrationReport } from '../../src/domain/migration.ts'
import type { AgentUnderTest } from '../support/drover.ts'
import { expectCounting, inGuest, met, runVm, showVm, TwoNodes } from '../support/two-nodes.ts'

let nodes: TwoNodes
let third: AgentUnderTest
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '128M' })
  third = await nodes.join('edge-3', [])
  await met(nodes.destination, third)
  await runVm(nodes.source, 'web')
  await inGuest(nodes.source, 'web', 'workload counter start')
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

/** Until a node knows where a VM is. */
async function known(agent: AgentUnderTest, name: string, node: string): Promise<void> {
  const whereabouts = async () => {
    const { vms } = await agent.json<MeshVmsReply & Record<string, unknown>>('vm', 'ls', '--mesh')
    return vms.filter((vm) => vm.name === name).map((vm) => vm.node)
  }
  await expect.poll(whereabouts, { timeout: 10_000, interval: 100 }).toEqual([node])
}

test('a VM is shown, paused, resumed and reset from a node that does not have it', async () => {
  await known(third, 'web', 'edge-1')
  const { pid } = await showVm(nodes.source, 'web')
  const shown = await third.json<VmShowReply & Record<string, unknown>>('vm', 'show', 'web')
  expect(shown).toMatchObject({ name: 'web', node: 'edge-1', state: 'running', pid, consoleSocket: null })
  expect(shown.pages!.private).toBeGreaterThan(0)
  expect(await third.json('vm', 'show', shown.id)).toMatchObject({ name: 'web' })
  expect(await third.json('vm', 'pause', 'web')).toMatchObject({ state: 'paused', node: 'edge-1' })
  expect(await showVm(nodes.source, 'web')).toMatchObject({ state: 'paused', runState: 'paused' })
  expect(await third.json('vm', 'resume', 'web')).toMatchObject({ state: 'running' })
  await expectCounting(nodes.source, 'web', 1)
  const { stdout } = await nodes.source.run(['events', '--recent', '--json'], { timeoutMs: 2_000 })
  const events = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as EventReply)
  expect(events).toContainEqual(
    expect.objectContaining({ kind: 'command-from-peer', command: 'pause', vm: 'web' }),
  )
})

test('whom a VM serves is said from any node, and moves with it', async () => {
  const client = { host: '192.0.2.7', port: 443, weight: 3 }
  const set = (...options: string[]) => third.json('vm', 'set', 'web', ...options)
  expect(await set('--client', '192.0.2.7:443=3', '--auto')).toMatchObject({ clients: [client], auto: true })
  expect(await set('--no-auto')).toMatchObject({ clients: [client], auto: false })
  expect(await set('--no-clients')).toMatchObject({ clients: [], auto: false })
  expect(await set('--client', '192.0.2.7:443=3', '--auto')).toMatchObject({ clients: [client], auto: true })
})

test('what a client has from each node is shown for a VM that may be moved to it', async () => {
  const server = createServer((socket) => socket.resume()).listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    const { port } = server.address() as AddressInfo
    await third.json('vm', 'set', 'web', '--client', `127.0.0.1:${port}`, '--auto')
    const measured = async () => {
      const { clientLatency } = await third.json<VmShowReply & Record<string, unknown>>('vm', 'show', 'web')
      return clientLatency?.nodes.map(({ name }) => name).toSorted()
    }
    await expect.poll(measured, { timeout: 15_000 }).toEqual(['edge-1', 'edge-2', 'edge-3'])
  } finally {
    server.close()
  }
  await third.json('vm', 'set', 'web', '--client', '192.0.2.7:443=3')
})

test('a VM is moved from a third node, and pulled to the node where the command is given', async () => {
  const report = await third.json<MigrationReport & Record<string, unknown>>(
    'migrate',
    'web',
    '--to',
    'edge-2',
  )
  expect(report).toMatchObject({ vm: 'web', outcome: 'completed', digest: 'verified' })
  // At once: the one that had it says no, and the directory knows better by then.
  expect(await third.json('vm', 'show', 'web')).toMatchObject({ node: 'edge-2' })
  const pulled = await third.json<MigrationReport & Record<string, unknown>>(
    'migrate',
    'web',
    '--to',
    'edge-3',
  )
  expect(pulled).toMatchObject({ vm: 'web', outcome: 'completed' })
  expect(await showVm(third, 'web')).toMatchObject({
    clients: [{ host: '192.0.2.7', port: 443, weight: 3 }],
    auto: true,
  })
  await expectCounting(third, 'web', 1)
  await known(nodes.source, 'web', 'edge-3')
  expect(await nodes.source.json('vm', 'stop', 'web', '--force')).toMatchObject({ state: 'stopped' })
  expect(await nodes.source.json('vm', 'rm', 'web')).toMatchObject({ name: 'web' })
  expect(await third.json('vm', 'ls')).toEqual({ vms: [] })
})

test('the console of a VM elsewhere carries what a script pipes into it, and the answer', async () => {
  await runVm(nodes.source, 'talker')
  await known(third, 'talker', 'edge-1')
  const { code, stdout } = await third.run(['vm', 'console', 'talker'], { input: 'echo $((6 * 7))\n' })
  expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining('42') })
  const client = new AgentClient({ socket: third.socket, signal: AbortSignal.timeout(30_000) })
  const tunnel = await client.request<{ consoleSocket: string }>('POST', '/vms/talker/console')
  expect((await stat(tunnel.consoleSocket)).mode & 0o777).toBe(0o600)
  expect((await stat(dirname(tunnel.consoleSocket))).mode & 0o777).toBe(0o700)
  createConnection(tunnel.consoleSocket).end()
  // Nothing is left of the tunnel.
  await expect.poll(() => readdir(join(third.dir, 'run', 'vms'))).toEqual([])
  await third.json('vm', 'stop', 'talker', '--force')
  const stopped = await third.run(['vm', 'console', 'talker', '--json'])
  expect(JSON.parse(stopped.stdout)).toMatchObject({ error: { code: 'VM_STOPPED' } })
  await third.json('vm', 'rm', 'talker')
})

test('what cannot be done is said with the code of the node that has the VM', async () => {
  await runVm(nodes.source, 'one')
  await known(third, 'one', 'edge-1')
  const failing = async (...args: string[]) => {
    const { code, stdout } = await third.run([...args, '--json'])
    return { code, error: (JSON.parse(stdout) as { error: { code: string } }).error.code }
  }
  expect(await failing('vm', 'rm', 'one')).toEqual({ code: 3, error: 'VM_RUNNING' })
  expect(await failing('vm', 'show', 'none')).toEqual({ code: 3, error: 'VM_NOT_FOUND' })
  expect(await failing('migrate', 'one', '--to', 'edge-1')).toEqual({ code: 3, error: 'ALREADY_HERE' })
  await nodes.destination.json('vm', 'run', 'one', '--template', nodes.templateId)
  await expect
    .poll(() => failing('vm', 'show', 'one'), { timeout: 10_000 })
    .toEqual({ code: 3, error: 'VM_AMBIGUOUS' })
  const { id } = await showVm(nodes.destination, 'one')
  expect(await third.json('vm', 'show', id)).toMatchObject({ node: 'edge-2' })

  await nodes.destination.stop('SIGKILL')
  expect(await failing('vm', 'show', id)).toEqual({ code: 1, error: 'OWNER_UNREACHABLE' })
  await nodes.destination.start()
})
