/** A guest's console for another node: QEMU serves one connection at a time, so none may be left behind. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { serveConsole } from '../../src/agent/commands/console.ts'
import { EventHub } from '../../src/agent/event-hub.ts'
import type { CommandParts } from '../../src/agent/parts.ts'
import { Policy } from '../../src/domain/policy.ts'
import { consoleReplyCodec, consoleRequestCodec } from '../../src/wire/command-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { codeOf, never } from '../template/fixture.ts'

let dir: string
let guest: Server
const sockets = new Set<Socket>()

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drover-console-'))
  guest = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
  })
  guest.listen(join(dir, 'console.sock'))
  await once(guest, 'listening')
})

afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  guest.close()
  await rm(dir, { recursive: true })
})

/** @param onShow - when the owner looks for the console */
function parts(onShow = () => {}): CommandParts {
  const show = async () => {
    onShow()
    return { consoleSocket: join(dir, 'console.sock'), record: { spec: { name: 'web' } } }
  }
  const policy = new Policy({}, { node: 'here' })
  return { policy, events: new EventHub(), hypervisor: { vms: { show } } } as unknown as CommandParts
}

const REQUEST = consoleRequestCodec.encode({ vm: 'web' })

test('a peer that resets the channel while its console is opened leaves no connection', async () => {
  const [ours, theirs] = channelPair()
  const connected = once(guest, 'connection')
  const serving = codeOf(serveConsole(parts(() => ours.abort(new Error('gone'))))(theirs, never()))
  await ours.send(REQUEST)
  expect(await serving).toBe('ERR_CHANNEL_RESET')
  await connected
  await expect.poll(() => sockets.size).toBe(0)
})

test('a peer that closes the channel leaves none either', async () => {
  const [ours, theirs] = channelPair()
  const serving = codeOf(serveConsole(parts())(theirs, never()))
  await ours.send(REQUEST)
  expect(consoleReplyCodec.decode((await ours.receive({ maxBytes: 1024 }))!).kind).toBe('opened')
  expect(sockets.size).toBe(1)
  await ours.close()
  expect(await serving).toBe('resolved')
  await expect.poll(() => sockets.size).toBe(0)
})
