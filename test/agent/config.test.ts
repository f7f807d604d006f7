import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadConfig } from '../../src/agent/config.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drover-'))
})
afterAll(() => rm(dir, { recursive: true }))

async function file(content: string): Promise<string> {
  const path = join(dir, 'config.json')
  await writeFile(path, content)
  return path
}

test('without a file and flags everything has its default', async () => {
  expect(await loadConfig({})).toMatchObject({
    dataDir: '/var/lib/drover',
    socket: '/run/drover/agent.sock',
    runDir: '/run/drover/vms',
    listen: ['/ip4/0.0.0.0/tcp/4710'],
    joinToken: null,
    bootstrap: [],
    mdns: true,
    memoryLimitBytes: null,
    prepare: 0,
    accelerator: 'auto',
  })
})

test('flags go over the file, the file over the defaults', async () => {
  const config = await file('{"name":"from-file","memoryLimitBytes":"8G","accel":"tcg"}')
  expect(await loadConfig({ config, name: 'from-flag' })).toMatchObject({
    name: 'from-flag',
    memoryLimitBytes: 8 * 1024 ** 3,
    accelerator: 'tcg',
  })
})

test.each([
  ['an unknown key', '{"memoryLimit":"8G"}', 'memoryLimit'],
  ['a wrong type', '{"listen":"/ip4/0.0.0.0/tcp/1"}', 'listen'],
  ['more QEMUs kept ready than there may be', '{"prepare":5}', 'prepare'],
  ['a size that is none', '{"memoryLimitBytes":"lots"}', 'memoryLimitBytes'],
  ['a name that would be a path', '{"name":"../up"}', 'name'],
  ['no JSON', '{name:', 'config.json'],
  ['a name to bootstrap from', '{"bootstrap":["/dns4/example.org/tcp/4710"]}', 'bootstrap'],
  ['an address without a peer id', '{"bootstrap":["/ip4/192.0.2.1/tcp/4710"]}', 'bootstrap'],
  ['a name that may send', '{"allow":{"send":["edge-2"]}}', 'allow.send'],
  ['an action that is none', '{"allow":{"sned":"members"}}', 'sned'],
  ['everybody', '{"allow":{"fetch":"all"}}', 'peer ids'],
  [
    'an address that is none',
    '{"bootstrap":["/ip4/192.0.2.300/tcp/1/p2p/12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1"]}',
    'bootstrap',
  ],
])('%s in the file is named', async (_what, content, named) => {
  const loaded = loadConfig({ config: await file(content) })
  await expect(loaded).rejects.toMatchObject({ code: 'CONFIG_INVALID', outcome: 'usage' })
  await expect(loaded).rejects.toThrow(named)
})

test('addresses to bootstrap from and mDNS come from the file', async () => {
  const bootstrap = [
    '/ip4/192.0.2.1/tcp/4710/p2p/12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1',
    '/ip6/2001:db8::1/tcp/4710/p2p/12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1',
  ]
  const config = await file(JSON.stringify({ bootstrap, mdns: false }))
  expect(await loadConfig({ config })).toMatchObject({ bootstrap, mdns: false })
})

test("a user for QEMU comes from the file or a flag; without one QEMU is the agent's", async () => {
  const config = await file('{"qemuUser":"qemu"}')
  expect(await loadConfig({ config })).toMatchObject({ qemuUser: 'qemu' })
  expect(await loadConfig({ config, qemuUser: 'drover' })).toMatchObject({ qemuUser: 'drover' })
  expect(await loadConfig({})).toMatchObject({ qemuUser: null })
})

test('a QEMU by its path is found wherever it is started; one by its name, in PATH', async () => {
  expect(await loadConfig({ qemu: './qemu' })).toMatchObject({ qemuPath: join(process.cwd(), 'qemu') })
  expect(await loadConfig({ qemu: 'qemu-kvm' })).toMatchObject({ qemuPath: 'qemu-kvm' })
})

test('who may do what comes from the file; what it leaves out, every member may', async () => {
  const peer = '12D3KooWSFp855QLRvUcVwyvskF7tZrrut79duKiF4MgEw7foYs1'
  const config = await file(JSON.stringify({ allow: { send: [peer], command: [] } }))
  expect(await loadConfig({ config })).toMatchObject({
    allow: { send: [peer], fetch: 'members', command: [] },
  })
  expect(await loadConfig({})).toMatchObject({ allow: {} })
})

test('a socket whose neighbours would have too long paths is refused before QEMU meets it', async () => {
  const socket = `/tmp/${'d'.repeat(60)}/agent.sock`
  await expect(loadConfig({ socket })).rejects.toMatchObject({
    code: 'SOCKET_PATH_TOO_LONG',
    details: { maxBytes: 107 },
  })
})
