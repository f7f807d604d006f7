import { execFile } from 'node:child_process'
import { access } from 'node:fs/promises'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { drover, LAUNCHER } from '../support/drover.ts'

const run = promisify(execFile)
const NO_AGENT = { DROVER_SOCKET: '/nonexistent/agent.sock' }

test.each([
  ['an unknown command', ['sttus'], 'Did you mean status?'],
  ['an unknown subcommand', ['vm', 'strat'], 'strat'],
  ['no subcommand', ['vm'], 'Usage: drover vm'],
  ['a missing argument', ['vm', 'show'], 'name'],
  ['too many arguments', ['vm', 'ls', 'x'], 'too many arguments'],
  ['nobody to remove', ['mesh', 'remove'], 'peer'],
  ['a missing option', ['migrate', 'web'], '--to'],
  ['a client without a port', ['vm', 'run', 'x', '--template', 'web', '--client', '192.0.2.7'], 'HOST:PORT'],
  ['a VM to be set to nothing', ['vm', 'set', 'web'], '--client'],
  ['clients and none', ['vm', 'set', 'web', '--client', '192.0.2.7:443', '--no-clients'], 'not both'],
  ['a bad size', ['template', 'create', 'x', '--kernel', 'k', '--ready', 'r', '--memory', '3x'], '512M'],
  [
    'a bad pattern',
    ['template', 'create', 'x', '--kernel', 'k', '--memory', '64M', '--ready', '('],
    'regular',
  ],
  ['a template of nothing', ['template', 'create', 'x', '--kernel', 'k', '--memory', '64M'], '--ready'],
  [
    'a template of a VM and of a kernel',
    ['template', 'create', 'x', '--from-vm', 'web', '--kernel', 'k'],
    '--kernel',
  ],
  [
    'a template of a VM with other memory',
    ['template', 'create', '--from-vm', 'web', 'x', '--memory', '64M'],
    '--memory',
  ],
  ['no moves side by side', ['migrate', 'web', '--to', 'x', '--parallel', '0'], 'from 1 to 16'],
  ['too many moves side by side', ['migrate', 'web', '--to', 'x', '--parallel', '17'], 'from 1 to 16'],
  ['a bad choice', ['migration', 'resolve', 'ID', '--owner', 'me'], 'source, destination'],
  ['a bad setting of the agent', ['agent', '--name', '../x'], 'node name'],
])('%s is a usage error: exit code 2, and it says what', async (_what, args, said) => {
  const { code, stderr } = await drover(args, { env: NO_AGENT })
  expect(stderr).toContain(said)
  expect(code).toBe(2)
})

test('with --json a usage error is a document on stdout, and a sentence on stderr', async () => {
  const { code, stdout, stderr } = await drover(['vm', 'ls', 'x', '--json'])
  expect(JSON.parse(stdout)).toEqual({ error: { code: 'USAGE', message: expect.any(String), details: {} } })
  expect(stderr).toMatch(/^drover: too many arguments.*\(USAGE\)\n$/)
  expect(code).toBe(2)
})

test.each([
  ['status'],
  ['vm ls'],
  ['events'],
  ['migrate web --to edge'],
  ['mesh token'],
  ['template verify'],
])('%s without an agent says how to start one', async (line) => {
  const { code, stdout, stderr } = await drover([...line.split(' '), '--json'], { env: NO_AGENT })
  expect(JSON.parse(stdout)).toMatchObject({
    error: { code: 'AGENT_UNREACHABLE', details: { socket: '/nonexistent/agent.sock' } },
  })
  expect(stderr).toContain('drover agent')
  expect(code).toBe(1)
})

test('help shows examples first', async () => {
  const { code, stdout } = await drover(['template', 'create', '--help'])
  expect(code).toBe(0)
  expect(stdout).toMatch(/^Examples:\n {2}\$ drover template create/)
})

test('status --wait gives up after its time', async () => {
  const startedMs = performance.now()
  const { code } = await drover(['status', '--wait', '0.5'], { env: NO_AGENT })
  expect(code).toBe(1)
  expect(performance.now() - startedMs).toBeGreaterThan(400)
})

const OLD_NODE = '/usr/bin/node'
const oldNode = await access(OLD_NODE).then(
  async () => (await run(OLD_NODE, ['--version'])).stdout.trim(),
  () => null,
)

test.skipIf(oldNode === null || Number(oldNode.slice(1).split('.')[0]) >= 24)(
  'a Node that is too old gets one clear line',
  async () => {
    const failed = await run(OLD_NODE, [LAUNCHER, 'status']).catch((error: unknown) => error)
    expect(failed).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^drover: needs Node\.js 24 .*\n$/),
    })
  },
)
