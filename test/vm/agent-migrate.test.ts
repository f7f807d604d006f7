/** Two agents, the real guest: a move as a user makes it. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { VmShowReply } from '../../src/agent/api-schema.ts'
import type { MigrationReport } from '../../src/domain/migration.ts'
import { AgentUnderTest, LAUNCHER } from '../support/drover.ts'
import { testGuest } from '../support/guest.ts'
import { GuestConsole } from '../support/guest-console.ts'

let [edge1, edge2]: AgentUnderTest[] = []
let templateId: string

beforeAll(async () => {
  const guest = await testGuest()
  const flags = ['--accel', 'tcg', '--qemu', guest.qemu]
  edge1 = await AgentUnderTest.start({ name: 'edge-1', flags })
  const { token } = await edge1.json<{ token: string }>('mesh', 'token')
  edge2 = await AgentUnderTest.start({ name: 'edge-2', flags: [...flags, '--join', token] })
  await vi.waitFor(() => edge1!.json('peer', 'ping', 'edge-2'), { timeout: 15_000 })
  const created = await edge1.json<{ id: string }>(
    ...[
      'template',
      'create',
      'small',
      '--kernel',
      guest.kernel,
      '--initrd',
      guest.initrd,
      '--append',
      guest.append,
    ],
    ...['--memory', '128M', '--ready', 'drover-guest ready'],
  )
  templateId = created.id
})
afterAll(async () => {
  await edge1?.[Symbol.asyncDispose]()
  await edge2?.[Symbol.asyncDispose]()
})

async function show(agent: AgentUnderTest, name: string): Promise<VmShowReply> {
  return await agent.json<VmShowReply>('vm', 'show', name)
}

test('a template is pulled by its id, and is the same there', async () => {
  const pulled = await edge2!.json('template', 'pull', templateId, '--from', 'edge-1', '--name', 'pulled')
  expect(pulled).toMatchObject({ id: templateId, names: ['pulled'], bytesReceived: expect.any(Number) })
  expect(await edge2!.json('template', 'verify', 'pulled')).toMatchObject({ ok: true })
  expect(await edge2!.json('template', 'pull', templateId)).toMatchObject({ from: [], bytesReceived: 0 })
})

test('a VM moves with what it holds in memory, and back', async () => {
  await edge1!.json('vm', 'run', 'web-1', '--template', 'small')
  {
    await using console = await GuestConsole.connect((await show(edge1!, 'web-1')).consoleSocket!)
    await console.run('echo moved > /run/mark')
  }
  const report = await edge1!.json<MigrationReport>('migrate', 'web-1', '--to', 'edge-2')
  expect(report).toMatchObject({
    vm: 'web-1',
    outcome: 'completed',
    digest: 'verified',
    error: null,
    templateId,
  })
  expect(report.durationsMs.blackout).toBeGreaterThan(0)
  expect(report.bytes.wire).toBeLessThan(report.bytes.stockEquivalent)

  expect(await edge1!.json('vm', 'ls')).toEqual({ vms: [] })
  const there = await show(edge2!, 'web-1')
  expect(there).toMatchObject({ node: 'edge-2', state: 'running', template: templateId })
  expect(there.pages!.private).toBeLessThan(there.pages!.guest / 10)
  {
    await using console = await GuestConsole.connect(there.consoleSocket!)
    expect(await console.run('cat /run/mark')).toBe('moved')
  }

  const { migrationId } = report
  expect(await edge1!.json('migration', 'show', migrationId)).toEqual({ ...report, running: false })
  expect((await edge1!.run(['migration', 'watch', migrationId])).code).toBe(0)
  expect((await edge1!.run(['migration', 'cancel', migrationId, '--json'])).stdout).toContain(
    'CANCEL_TOO_LATE',
  )

  const back = await edge2!.run(['migrate', 'web-1', '--to', 'edge-1'])
  expect(back.stdout).toMatch(/web-1: completed/)
  expect(back.code).toBe(0)
  await edge1!.json('vm', 'stop', 'web-1', '--force')
  await edge1!.json('vm', 'rm', 'web-1')
})

test('several VMs: one document per line, and the worst exit code', async () => {
  await edge1!.json('vm', 'run', 'web-2', '--template', 'small')
  const { code, stdout } = await edge1!.run(['migrate', 'web-2', 'nope', '--to', 'edge-2', '--json'])
  const documents = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  // As they end: what can't go at all has ended first.
  expect(documents).toMatchObject([
    { error: { code: 'VM_NOT_FOUND', details: { vm: 'nope' } } },
    { vm: 'web-2', outcome: 'completed' },
  ])
  expect(code).toBe(3)
  await edge2!.json('vm', 'stop', 'web-2', '--force')
  await edge2!.json('vm', 'rm', 'web-2')
})

test('Ctrl-C cancels the move, and the VM runs on where it was', async () => {
  await edge1!.json('vm', 'run', 'web-3', '--template', 'small')
  {
    await using console = await GuestConsole.connect((await show(edge1!, 'web-3')).consoleSocket!)
    await console.run('head -c 20000000 /dev/urandom > /run/ballast')
  }
  const child = spawn(
    process.execPath,
    [
      LAUNCHER,
      '--socket',
      edge1!.socket,
      'migrate',
      'web-3',
      '--to',
      'edge-2',
      '--max-bandwidth',
      '8Mbit',
      '--json',
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const exited = once(child, 'exit')
  const output = child.stdout.setEncoding('utf8').toArray()
  await expect.poll(async () => (await show(edge1!, 'web-3')).state, { timeout: 20_000 }).toBe('departing')
  await sleep(500)
  child.kill('SIGINT')
  expect((await exited)[0]).toBe(130)
  expect(JSON.parse((await output).join(''))).toMatchObject({ vm: 'web-3', outcome: 'cancelled' })
  expect(await show(edge1!, 'web-3')).toMatchObject({ state: 'running', runState: 'running' })
  expect(await edge2!.json('vm', 'ls')).toEqual({ vms: [] })
  await edge1!.json('vm', 'stop', 'web-3', '--force')
  await edge1!.json('vm', 'rm', 'web-3')
})
