/** One agent, the real guest: everything a user does with templates and VMs on one node. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { VmShowReply } from '../../src/agent/api-schema.ts'
import { AgentUnderTest } from '../support/drover.ts'
import { type TestGuest, testGuest } from '../support/guest.ts'
import { GuestConsole } from '../support/guest-console.ts'

const MEMORY = '128M'
const MEMORY_PAGES = (128 * 1024 ** 2) / 4096

let guest: TestGuest
let agent: AgentUnderTest
let templateId: string

beforeAll(async () => {
  guest = await testGuest()
  agent = await AgentUnderTest.start({ name: 'edge-1', flags: ['--accel', 'tcg', '--qemu', guest.qemu] })
  templateId = (await agent.json<{ id: string }>(...create('small'))).id
})
afterAll(() => agent?.[Symbol.asyncDispose]())

function create(name: string, ready = 'drover-guest ready', timeoutS = 60): string[] {
  const { kernel, initrd, append } = guest
  const files = ['--kernel', kernel, '--initrd', initrd, '--append', append]
  return [
    'template',
    'create',
    name,
    ...files,
    '--memory',
    MEMORY,
    '--ready',
    ready,
    '--ready-timeout',
    String(timeoutS),
  ]
}

async function show(name: string): Promise<VmShowReply> {
  return await agent.json<VmShowReply>('vm', 'show', name)
}

test('template create prints the id, and template show finds it by name, id and the start of the id', async () => {
  expect(templateId).toMatch(/^bafkrei/)
  for (const ref of ['small', templateId, templateId.slice(0, 16)]) {
    expect(await agent.json('template', 'show', ref)).toMatchObject({
      id: templateId,
      names: ['small'],
      memoryBytes: 128 * 1024 ** 2,
      kernelCommandLine: guest.append,
    })
  }
})

test('template verify finds it whole', async () => {
  expect(await agent.json('template', 'verify')).toEqual({
    ok: true,
    templates: [{ id: templateId, names: ['small'], ok: true, damaged: [], repaired: null, error: null }],
  })
})

test('a name can be taken once, and the boot is not even begun', async () => {
  const startedMs = performance.now()
  const { code, stdout } = await agent.run([...create('small'), '--json'])
  expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'NAME_TAKEN' } })
  expect(code).toBe(3)
  expect(performance.now() - startedMs).toBeLessThan(2_000)
})

test('a guest that never gets ready: what its console said instead, and nothing left', async () => {
  const { code, stdout } = await agent.run([...create('never', 'no such words', 30), '--json'])
  const { error } = JSON.parse(stdout) as { error: { code: string; details: { lastLines: string[] } } }
  expect(error.code).toBe('TEMPLATE_NOT_READY')
  expect(error.details.lastLines.at(-1)).toContain('drover-guest ready')
  expect(code).toBe(1)
  expect((await agent.json<{ templates: unknown[] }>('template', 'ls')).templates).toHaveLength(1)
})

test('a VM from run to rm', async () => {
  expect(await agent.json('vm', 'run', 'web-1', '--template', 'small')).toMatchObject({
    name: 'web-1',
    state: 'running',
  })

  const vm = await show('web-1')
  expect(vm).toMatchObject({
    node: 'edge-1',
    state: 'running',
    template: templateId,
    memoryBytes: 128 * 1024 ** 2,
  })
  const { guest: pages, private: own, shared, untouched } = vm.pages!
  expect(pages).toBe(MEMORY_PAGES)
  expect(own + shared + untouched).toBe(MEMORY_PAGES)
  expect(own).toBeGreaterThan(0)
  expect(own).toBeLessThan(MEMORY_PAGES / 10)

  {
    await using console = await GuestConsole.connect(vm.consoleSocket!)
    expect(await console.run('echo $((6 * 7))')).toBe('42')
  }

  expect(await agent.json('vm', 'pause', 'web-1')).toMatchObject({ state: 'paused' })
  expect(await show('web-1')).toMatchObject({ state: 'paused', runState: 'paused' })
  expect(await agent.json('vm', 'resume', 'web-1')).toMatchObject({ state: 'running' })

  expect(await agent.run(['vm', 'rm', 'web-1', '--json'])).toMatchObject({
    code: 3,
    stdout: expect.stringContaining('VM_RUNNING'),
  })
  expect(await agent.run(['template', 'rm', 'small', '--json'])).toMatchObject({
    code: 3,
    stdout: expect.stringContaining('web-1'),
  })
  expect(await agent.run(['vm', 'run', 'web-1', '--template', 'small', '--json'])).toMatchObject({
    code: 3,
    stdout: expect.stringContaining('NAME_TAKEN'),
  })

  expect(await agent.json('vm', 'stop', 'web-1', '--force')).toMatchObject({ state: 'stopped', pid: null })
  expect(await show('web-1')).toMatchObject({ pages: null, consoleSocket: null })
  expect(await agent.run(['vm', 'console', 'web-1'])).toMatchObject({ code: 3 })
  expect(await agent.run(['vm', 'pause', 'web-1', '--json'])).toMatchObject({
    code: 3,
    stdout: expect.stringContaining('VM_STOPPED'),
  })
  await agent.json('vm', 'rm', 'web-1')
  expect(await agent.json('vm', 'ls')).toEqual({ vms: [] })
})

test('vm console carries what a script pipes into it, and the answer', async () => {
  await agent.json('vm', 'run', 'web-2', '--template', 'small')
  const { code, stdout } = await agent.run(['vm', 'console', 'web-2', '--quiet', '5'], {
    input: 'echo $((6 * 7))\n',
  })
  expect(stdout).toContain('42')
  expect(code).toBe(0)
  await agent.json('vm', 'stop', 'web-2', '--force')
  await agent.json('vm', 'rm', 'web-2')
})

test('reset boots the guest again', async () => {
  await agent.json('vm', 'run', 'web-3', '--template', 'small')
  const { consoleSocket } = await show('web-3')
  await using console = await GuestConsole.connect(consoleSocket!)
  await agent.json('vm', 'reset', 'web-3')
  await console.waitFor(/drover-guest ready/, { timeoutMs: 120_000 })
  await agent.json('vm', 'stop', 'web-3', '--force')
  await agent.json('vm', 'rm', 'web-3')
})

test('VMs outlive their agent, and the next one adopts them', async () => {
  await agent.json('vm', 'run', 'web-4', '--template', 'small')
  const { pid, consoleSocket } = await show('web-4')
  {
    await using console = await GuestConsole.connect(consoleSocket!)
    await console.run('echo kept > /run/mark')
  }
  expect(await agent.stop('SIGTERM')).toBe(0)
  process.kill(pid!, 0)
  await agent.start()
  expect(await show('web-4')).toMatchObject({ state: 'running', pid, consoleSocket })
  {
    await using console = await GuestConsole.connect(consoleSocket!)
    expect(await console.run('cat /run/mark')).toBe('kept')
  }

  await agent.stop('SIGKILL')
  await agent.start()
  expect(await show('web-4')).toMatchObject({ state: 'running', pid })
  await agent.json('vm', 'stop', 'web-4', '--force')
  await agent.json('vm', 'rm', 'web-4')
})

test('a VM whose QEMU dies is stopped, with the reason, and told as an event', async () => {
  await agent.json('vm', 'run', 'web-5', '--template', 'small')
  process.kill((await show('web-5')).pid!, 'SIGKILL')
  await expect.poll(async () => (await show('web-5')).state, { timeout: 10_000 }).toBe('stopped')
  expect((await show('web-5')).reason).toBeTruthy()
  await agent.json('vm', 'rm', 'web-5')
})

test('an agent that is stopped while it makes a template leaves nothing of it', async () => {
  const creating = agent.run(create('unfinished', 'no such words'))
  const running = () => readdir(join(agent.dir, 'run', 'vms'))
  await expect.poll(running, { timeout: 20_000 }).not.toEqual([])
  expect(await agent.stop('SIGTERM')).toBe(0)
  expect(await running()).toEqual([])
  expect((await creating).code).toBe(1)
  await agent.start()
  expect((await agent.json<{ templates: unknown[] }>('template', 'ls')).templates).toHaveLength(1)
})
