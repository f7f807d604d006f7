import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { expect, onTestFinished, test } from 'vitest'
import { QmpClient } from '../../src/qemu/index.ts'
import { temporaryDirectory } from '../support/qemu-guest.ts'

const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 } }, capabilities: ['oob'] } }

interface Command {
  execute: string
  arguments?: unknown
  id: number
}

/** The other end of a control socket: greets, negotiates, and answers as the test says. */
async function listen(
  answer: (command: Command, send: (message: unknown) => void, socket: Socket) => void,
  { greeting = `${JSON.stringify(GREETING)}\r\n` } = {},
): Promise<string> {
  const dir = await temporaryDirectory()
  const path = join(dir.path, 'qmp.sock')
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.write(greeting)
    const send = (message: unknown) => socket.write(`${JSON.stringify(message)}\r\n`)
    createInterface(socket).on('line', (line) => {
      const command = JSON.parse(line) as Command
      if (command.execute === 'qmp_capabilities') send({ return: {}, id: command.id })
      else answer(command, send, socket)
    })
  })
  server.listen(path)
  await once(server, 'listening')
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy()
    server.close()
    await dir[Symbol.asyncDispose]()
  })
  return path
}

test('negotiates, runs commands, tells the version', async () => {
  const path = await listen((command, send) => {
    send({ return: { status: 'paused', running: false, asked: command.arguments }, id: command.id })
  })
  await using qmp = await QmpClient.connect(path)
  expect(qmp.version).toEqual({ major: 7, minor: 2, micro: 22 })
  expect(await qmp.execute('query-status')).toMatchObject({ status: 'paused' })
  expect(await qmp.execute('netdev_del', { id: 'net0' })).toMatchObject({ asked: { id: 'net0' } })
})

test('answers in another order and in pieces find their commands', async () => {
  const waiting: Command[] = []
  const path = await listen((command, send, socket) => {
    waiting.push(command)
    if (waiting.length < 2) return
    const [first, second] = waiting as [Command, Command]
    send({ return: { name: second.execute }, id: second.id })
    const text = JSON.stringify({ return: { name: first.execute }, id: first.id })
    socket.write(text.slice(0, 7))
    setTimeout(() => socket.write(`${text.slice(7)}\n`), 5)
  })
  await using qmp = await QmpClient.connect(path)
  const [first, second] = await Promise.all([qmp.execute('query-status'), qmp.execute('query-migrate')])
  expect([first, second]).toEqual([{ name: 'query-status' }, { name: 'query-migrate' }])
})

test("QEMU's refusal keeps its class and words", async () => {
  const path = await listen((command, send) => {
    send({ error: { class: 'DeviceNotFound', desc: "Device 'x' not found" }, id: command.id })
  })
  await using qmp = await QmpClient.connect(path)
  await expect(qmp.execute('netdev_del', { id: 'x' })).rejects.toMatchObject({
    code: 'QMP_ERROR',
    details: { command: 'netdev_del', class: 'DeviceNotFound', desc: "Device 'x' not found" },
  })
})

test('a command without an answer ends in time, and its late answer hurts nobody', async () => {
  let late = () => {}
  const path = await listen((command, send) => {
    if (command.execute === 'stop') late = () => send({ return: { late: true }, id: command.id })
    else {
      late()
      send({ return: { status: 'running', running: true }, id: command.id })
    }
  })
  await using qmp = await QmpClient.connect(path)
  await expect(qmp.execute('stop', undefined, { timeoutMs: 20 })).rejects.toMatchObject({
    code: 'QMP_TIMEOUT',
    details: { command: 'stop', timeoutMs: 20 },
  })
  expect(await qmp.execute('query-status')).toEqual({ status: 'running', running: true })
})

test('an abort ends the wait with its reason', async () => {
  const path = await listen(() => {})
  await using qmp = await QmpClient.connect(path)
  const reason = new Error('cancelled')
  const controller = new AbortController()
  const command = qmp.execute('stop', undefined, { signal: controller.signal })
  const event = qmp.waitForEvent('STOP', () => true, { signal: controller.signal })
  controller.abort(reason)
  await expect(command).rejects.toBe(reason)
  await expect(event).rejects.toBe(reason)
  await expect(qmp.execute('stop', undefined, { signal: controller.signal })).rejects.toBe(reason)
})

test('a closed socket ends everything that waits, and what comes after', async () => {
  const path = await listen((_, __, socket) => socket.destroy())
  await using qmp = await QmpClient.connect(path)
  const event = qmp.waitForEvent('STOP', () => true)
  const closed = { code: 'QMP_CLOSED' }
  await Promise.all([
    expect(qmp.execute('stop')).rejects.toMatchObject(closed),
    expect(event).rejects.toMatchObject(closed),
  ])
  await qmp.closed
  await expect(qmp.execute('stop')).rejects.toMatchObject(closed)
  await expect(qmp.waitForEvent('STOP', () => true)).rejects.toMatchObject(closed)
})

test('an event between a command and the wait for it is not lost', async () => {
  const path = await listen((command, send) => {
    send({ event: 'MIGRATION', data: { status: 'active' } })
    send({ event: 'MIGRATION', data: { status: 'completed' } })
    send({ return: {}, id: command.id })
  })
  await using qmp = await QmpClient.connect(path)
  const isCompleted = ({ data }: { data: Record<string, unknown> }) => data.status === 'completed'
  const after = qmp.eventCount
  await qmp.execute('migrate', { uri: 'unix:x' })
  expect(qmp.eventCount).toBe(after + 2)
  expect(await qmp.waitForEvent('MIGRATION', isCompleted, { after })).toMatchObject({
    data: { status: 'completed' },
  })
  // Without `after` only what comes next counts.
  await expect(qmp.waitForEvent('MIGRATION', isCompleted, { timeoutMs: 20 })).rejects.toMatchObject({
    code: 'QMP_TIMEOUT',
  })
})

test('an event that comes later is found by its name and content', async () => {
  const path = await listen((command, send) => {
    send({ return: {}, id: command.id })
    send({ event: 'RESET', data: { guest: true } })
    send({ event: 'STOP' })
    send({ event: 'RESET', data: { guest: false } })
  })
  await using qmp = await QmpClient.connect(path)
  const reset = qmp.waitForEvent('RESET', ({ data }) => data.guest === false)
  await qmp.execute('system_reset')
  expect(await reset).toMatchObject({ event: 'RESET', data: { guest: false } })
})

test('nothing listens there', async () => {
  await using dir = await temporaryDirectory()
  await expect(QmpClient.connect(join(dir.path, 'none'))).rejects.toMatchObject({
    code: 'QMP_CLOSED',
    cause: { code: 'ENOENT' },
  })
})

test.each([
  ['no greeting', '', 'QMP_TIMEOUT'],
  ['no JSON', 'hello\n', 'QMP_CLOSED'],
  ['a line without end', '"'.padEnd(5 * 1024 * 1024, 'x'), 'QMP_CLOSED'],
])('%s ends the connection', async (_, greeting, code) => {
  const path = await listen(() => {}, { greeting })
  await expect(QmpClient.connect(path, { timeoutMs: 2000 })).rejects.toMatchObject({ code })
})
