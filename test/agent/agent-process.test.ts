import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { access, readFile, stat } from 'node:fs/promises'
import { request } from 'node:http'
import { dirname } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { AgentUnderTest, drover, LAUNCHER } from '../support/drover.ts'

let agent: AgentUnderTest
beforeAll(async () => {
  agent = await AgentUnderTest.start({ name: 'edge-1', flags: ['--accel', 'tcg'] })
}, 60_000)
afterAll(() => agent[Symbol.asyncDispose]())

test('status names the node, its QEMU and its counts', async () => {
  expect(await agent.json('status')).toEqual({
    peerId: expect.stringMatching(/^12D3KooW/),
    name: 'edge-1',
    version: '0.1.0',
    pid: agent.pid,
    uptimeMs: expect.any(Number),
    addresses: [expect.stringMatching(/^\/ip4\/127\.0\.0\.1\/tcp\/\d+/)],
    dataDir: agent.dataDir,
    socket: agent.socket,
    policy: { send: 'members', fetch: 'members', command: 'members' },
    qemu: {
      path: expect.stringContaining('qemu-system-x86_64'),
      version: expect.stringMatching(/^\d+\.\d+/),
      accelerator: 'tcg',
      acceleratorReason: null,
      defaultMachineType: expect.stringMatching(/^pc-q35-\d/),
      error: null,
    },
    memory: {
      limitBytes: null,
      committedBytes: 0,
      reservedBytes: 0,
      availableBytes: expect.any(Number),
    },
    draining: false,
    rebalancer: {
      paused: false,
      moves: { decided: 0, made: 0, failed: 0 },
      verdicts: {},
      vms: 0,
      lookedAtMs: expect.toSatisfy(isTimeOrNull),
    },
    prefetch: { limitBytesPerHour: 0, spentBytes: 0 },
    keptPages: { keptBytes: 0, limitBytes: 1024 ** 3 },
    preparedQemus: [],
    counts: {
      vms: 0,
      vmsRunning: 0,
      templates: 0,
      members: 1,
      membersConnected: expect.any(Number),
      migrationsRunning: 0,
    },
  })
})

test('only its user may speak to the agent', async () => {
  expect((await stat(agent.socket)).mode & 0o777).toBe(0o600)
  expect((await stat(dirname(agent.socket))).mode & 0o777).toBe(0o700)
  expect((await stat(agent.dataDir)).mode & 0o777).toBe(0o700)
})

test.each([
  ['vm ls', 'vms'],
  ['template ls', 'templates'],
  ['mesh ls', 'members'],
  ['peer ls', 'peers'],
  ['migration ls', 'migrations'],
])('%s is one document with an array', async (line, key) => {
  expect(await agent.json(...line.split(' '))).toEqual({ [key]: expect.any(Array) })
  expect((await agent.run(line.split(' '))).code).toBe(0)
})

test.each([
  ['vm show nope', 'VM_NOT_FOUND', 3],
  ['vm pause nope', 'VM_NOT_FOUND', 3],
  ['vm stop nope', 'VM_NOT_FOUND', 3],
  ['vm rm nope', 'VM_NOT_FOUND', 3],
  ['vm console nope', 'VM_NOT_FOUND', 3],
  ['vm run web --template nope', 'TEMPLATE_NOT_FOUND', 3],
  ['vm run ../web --template nope', 'REQUEST_INVALID', 2],
  ['template show nope', 'TEMPLATE_NOT_FOUND', 3],
  ['template show ../../etc', 'TEMPLATE_NOT_FOUND', 3],
  ['template rm nope', 'TEMPLATE_NOT_FOUND', 3],
  ['template verify nope', 'TEMPLATE_NOT_FOUND', 3],
  ['template pull nope', 'TEMPLATE_ID_NEEDED', 2],
  [`template pull bafkrei${'a'.repeat(52)}`, 'TEMPLATE_NOT_ON_PEERS', 3],
  ['template create x --kernel /nonexistent --memory 64M --ready r', 'TEMPLATE_FILE_UNREADABLE', 2],
  ['template create x --kernel /dev/null --memory 64M --ready r --machine q36', 'MACHINE_TYPE_UNKNOWN', 3],
  ['template create x --kernel /dev/null --memory 1M --ready r', 'REQUEST_INVALID', 2],
  ['peer ping nope', 'PEER_NOT_FOUND', 3],
  ['mesh remove nope', 'PEER_NOT_FOUND', 3],
  ['mesh remove edge-1', 'PEER_IS_SELF', 3],
  ['drain nope', 'PEER_NOT_FOUND', 3],
  ['ready nope', 'PEER_NOT_FOUND', 3],
  ['migrate web --to nope', 'PEER_NOT_FOUND', 3],
  ['migration show nope', 'MIGRATION_NOT_FOUND', 3],
  ['migration watch nope', 'MIGRATION_NOT_FOUND', 3],
  ['migration cancel nope', 'MIGRATION_NOT_FOUND', 3],
  ['migration resolve nope --owner source', 'MIGRATION_NOT_FOUND', 3],
])('%s is %s, exit code %d', async (line, code, exitCode) => {
  const result = await agent.run([...line.split(' '), '--json'])
  expect(JSON.parse(result.stdout)).toMatchObject({ error: { code, message: expect.any(String) } })
  expect(result.stderr).toContain(`(${code})`)
  expect(result.code).toBe(exitCode)
})

test('a VM that no node has is not moved to here', async () => {
  const { code, stdout } = await agent.run(['migrate', 'web', '--to', 'edge-1', '--json'])
  expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'VM_NOT_FOUND', details: { vm: 'web' } } })
  expect(code).toBe(3)
})

test('the join token is a secret that no log shows', async () => {
  const { token } = await agent.json<{ token: string }>('mesh', 'token')
  expect(token.length).toBeGreaterThan(40)
  expect(agent.log).not.toContain(token)
})

test('doctor works with the agent', async () => {
  const { ok, checks } = await agent.json<{ ok: boolean; checks: { check: string; ok: boolean }[] }>('doctor')
  expect(ok).toBe(true)
  expect(checks.map(({ check }) => check)).toEqual([
    'node',
    'qemu-user',
    'qemu',
    'accelerator',
    'qemu-img',
    'proc-mem',
    'pagemap',
    'soft-dirty',
    'yama',
    'tmpfs-huge',
    'data-dir',
    'socket',
    'open-files',
  ])
})

test.each([
  [
    'the same data directory',
    () => ['--data-dir', agent.dataDir, '--socket', `${agent.dir}/other/agent.sock`],
  ],
  ['the same socket', () => ['--data-dir', `${agent.dir}/other`, '--socket', agent.socket]],
])('a second agent on %s is refused, and the first one lives on', async (_what, flags) => {
  const { code, stderr } = await drover(['agent', '--listen', '/ip4/127.0.0.1/tcp/0', ...flags()])
  expect(stderr).toContain('AGENT_ALREADY_RUNNING')
  expect(code).toBe(3)
  expect((await agent.run(['status'])).code).toBe(0)
})

test('a user that QEMU can not run as keeps an agent from starting', async () => {
  const flags = ['--data-dir', `${agent.dir}/third`, '--socket', `${agent.dir}/third/agent.sock`]
  const { code, stderr } = await drover(['agent', ...flags, '--qemu-user', 'nobody-of-this-name'])
  expect(stderr).toContain('QEMU_USER_NOT_USABLE')
  expect(code).toBe(3)
})

test('events begin with the past when asked, and Ctrl-C ends them', async () => {
  const child = spawn(
    process.execPath,
    [LAUNCHER, '--socket', agent.socket, 'events', '--recent', '--json'],
    {
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  )
  const exited = once(child, 'exit')
  const [first] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string]
  expect(JSON.parse(first.split('\n')[0]!)).toMatchObject({ seq: 1, kind: 'agent-started', name: 'edge-1' })
  child.kill('SIGINT')
  expect((await exited)[0]).toBe(130)
})

test('events end when their reader has enough', async () => {
  const command = `"${process.execPath}" "${LAUNCHER}" --socket ${agent.socket} events --recent | head -n 1`
  const shell = spawn('bash', ['-c', `set -o pipefail; ${command}`], { stdio: ['ignore', 'pipe', 'ignore'] })
  const exited = once(shell, 'exit')
  await once(shell.stdout.setEncoding('utf8'), 'data')
  // An event of any kind: the reader is gone, and its pipe breaks.
  await using other = await AgentUnderTest.start({
    name: 'edge-5',
    flags: [
      '--qemu',
      '/nonexistent/qemu',
      '--join',
      (await agent.json<{ token: string }>('mesh', 'token')).token,
    ],
  })
  expect(other.pid).toBeGreaterThan(0)
  expect((await exited)[0]).toBe(0)
})

test.each([
  ['an unknown route', 'GET', '/nope', undefined, 400, 'ROUTE_NOT_FOUND'],
  [
    'an unknown field',
    'POST',
    '/vms',
    '{"name":"a","template":"t","nics":[],"cpu":1}',
    400,
    'REQUEST_INVALID',
  ],
  ['no JSON', 'POST', '/vms', '{', 400, 'REQUEST_INVALID'],
  ['a relative path', 'POST', '/templates', '{"name":"a","kernelPath":"k"}', 400, 'REQUEST_INVALID'],
  ['too much', 'POST', '/vms', JSON.stringify({ name: 'x'.repeat(100_000) }), 400, 'REQUEST_INVALID'],
])('%s on the socket is answered with a code', async (_what, method, path, body, status, code) => {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' }
  const sent = request({ socketPath: agent.socket, method, path, headers })
  sent.end(body)
  const [response] = await once(sent, 'response')
  expect(response.statusCode).toBe(status)
  const text = (await response.setEncoding('utf8').toArray()).join('')
  expect(JSON.parse(text)).toMatchObject({ error: { code, outcome: 'usage' } })
})

test('SIGTERM stops an agent in order, a killed one leaves nothing in the way of the next', async () => {
  await using other = await AgentUnderTest.start({ name: 'edge-2', flags: ['--qemu', '/nonexistent/qemu'] })
  const { peerId } = await other.json<{ peerId: string }>('status')
  await other.stop('SIGKILL')
  await access(other.socket)
  await other.start()
  expect(await other.json('status')).toMatchObject({ peerId })
  expect(await other.stop('SIGTERM')).toBe(0)
  await expect(access(other.socket)).rejects.toMatchObject({ code: 'ENOENT' })
})

test('a drained node takes no VMs and a paused rebalancer moves none, after a crash too, until told otherwise', async () => {
  expect(await agent.json('drain')).toEqual({ node: 'edge-1', moved: [], notPlaced: [], stopped: [] })
  expect(await agent.json('rebalance', 'pause')).toMatchObject({ node: 'edge-1', paused: true })
  await agent.stop('SIGKILL')
  await agent.start()
  expect(await agent.json('status')).toMatchObject({ draining: true, rebalancer: { paused: true } })
  expect((await agent.run(['mesh', 'ls'])).stdout).toContain('this node, draining')
  const refused = await agent.run(['vm', 'run', 'web', '--template', 'any', '--json'])
  expect(JSON.parse(refused.stdout)).toMatchObject({ error: { code: 'NODE_DRAINING' } })
  expect(refused.code).toBe(3)
  expect(await agent.json('ready')).toEqual({ node: 'edge-1', draining: false })
  expect(await agent.json('rebalance', 'resume')).toMatchObject({ paused: false })
  expect(await agent.json('rebalance', 'plan')).toEqual({
    node: 'edge-1',
    paused: false,
    lookedAtMs: expect.toSatisfy(isTimeOrNull),
    moves: [],
    notProbing: [],
  })
  expect(await agent.json('status')).toMatchObject({ draining: false, rebalancer: { paused: false } })
  const next = await agent.run(['vm', 'run', 'web', '--template', 'nope', '--json'])
  expect(JSON.parse(next.stdout)).toMatchObject({ error: { code: 'TEMPLATE_NOT_FOUND' } })
})

test('a node without QEMU runs, and says so wherever it matters', async () => {
  await using other = await AgentUnderTest.start({ name: 'edge-3', flags: ['--qemu', '/nonexistent/qemu'] })
  expect(await other.json('status')).toMatchObject({
    qemu: { path: '/nonexistent/qemu', version: null, accelerator: null, error: { code: 'QEMU_NOT_FOUND' } },
  })
  const run = await other.run(['vm', 'run', 'web', '--template', 'web', '--json'])
  expect(JSON.parse(run.stdout)).toMatchObject({ error: { code: 'QEMU_NOT_FOUND' } })
  expect(run.code).toBe(3)
  const doctor = await other.run(['doctor', '--json'])
  expect(JSON.parse(doctor.stdout)).toMatchObject({ ok: false })
  expect(doctor.code).toBe(3)
})

test('nodes join by token, find each other by name and answer pings', async () => {
  const { token } = await agent.json<{ token: string }>('mesh', 'token')
  await using other = await AgentUnderTest.start({
    name: 'edge-4',
    flags: ['--qemu', '/nonexistent/qemu', '--join', token],
  })
  await expect
    .poll(async () => (await other.json<{ peers: unknown[] }>('peer', 'ls')).peers, { timeout: 10_000 })
    .toContainEqual(expect.objectContaining({ name: 'edge-1', connected: true, self: false }))
  expect(await other.json('peer', 'ping', 'edge-1')).toMatchObject({
    name: 'edge-1',
    rttMs: expect.any(Number),
  })
  expect(await agent.json('peer', 'ping', 'edge-4')).toMatchObject({ name: 'edge-4' })
})

test('a removed node is out, and whoever names it is told', async () => {
  const { token } = await agent.json<{ token: string }>('mesh', 'token')
  await using other = await AgentUnderTest.start({
    name: 'edge-7',
    flags: ['--qemu', '/nonexistent/qemu', '--join', token],
  })
  await expect
    .poll(() => agent.run(['peer', 'ping', 'edge-7']), { timeout: 10_000 })
    .toMatchObject({ code: 0 })
  const { peerId } = await other.json<{ peerId: string }>('status')
  expect(await agent.json('mesh', 'remove', 'edge-7')).toEqual({
    peerId,
    name: 'edge-7',
    removedBy: (await agent.json<{ peerId: string }>('status')).peerId,
    atMs: expect.any(Number),
  })
  const ping = await agent.run(['peer', 'ping', 'edge-7', '--json'])
  expect(JSON.parse(ping.stdout)).toMatchObject({
    error: { code: 'PEER_REMOVED', details: { peer: peerId } },
  })
  expect(ping.code).toBe(3)
  expect((await agent.run(['mesh', 'ls'])).stdout).not.toContain('edge-7')
  await expect.poll(() => other.log).toContain('this node was removed from its mesh')
  expect((await other.run(['peer', 'ping', 'edge-1'])).code).toBe(1)
})

test('nobody else may connect to the socket from the moment that it is there', async () => {
  await using other = await AgentUnderTest.start({
    name: 'edge-6',
    flags: ['--qemu', '/nonexistent/qemu'],
    // The most careless way to start one.
    prefix: ['sh', '-c', 'umask 000; exec "$@"', 'sh'],
  })
  await other.stop()
  const modes = new Set<number>()
  const looking = setInterval(() => {
    const found = statSync(other.socket, { throwIfNoEntry: false })
    if (found !== undefined) modes.add(found.mode & 0o777)
  }, 1)
  await other.start()
  clearInterval(looking)
  expect([...modes]).toContain(0o600)
  expect([...modes].filter((mode) => (mode & 0o077) !== 0)).toEqual([])
  // The moment between bind and chmod is shorter than a look.
  expect(await readFile(`/proc/${other.pid}/status`, 'utf8')).toContain('Umask:\t0077\n')
})

/** The rebalancer looks each second: when it looked last, if it has. */
function isTimeOrNull(value: unknown): boolean {
  return value === null || (typeof value === 'number' && value <= Date.now())
}
