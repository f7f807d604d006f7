import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { bridgeConsole } from '../../src/cli/console-bridge.ts'

/** Stands in for QEMU's side of a serial console: whatever comes in is answered by `answer`. */
let answer: (text: string, socket: Socket) => void
let path: string
let close: () => Promise<void>

beforeEach(async () => {
  const dir = await mkdtemp(join(tmpdir(), 'drover-'))
  path = join(dir, 'console.sock')
  const server = createServer((socket) => {
    socket.on('data', (data) => answer(data.toString('latin1'), socket))
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  close = async () => {
    await new Promise((resolve) => server.close(resolve))
    await rm(dir, { recursive: true })
  }
})
afterEach(() => close())

class Terminal extends PassThrough {
  readonly isTTY = true
  readonly rawModes: boolean[] = []
  setRawMode(raw: boolean): void {
    this.rawModes.push(raw)
  }
}

function collect(output: PassThrough): () => string {
  let text = ''
  output.on('data', (data: Buffer) => {
    text += data.toString('latin1')
  })
  return () => text
}

test('a terminal is raw while it is connected, and Ctrl-] ends with what stood before it sent', async () => {
  const received: string[] = []
  answer = (text) => received.push(text)
  const input = new Terminal()
  const bridged = bridgeConsole(path, { input, output: new PassThrough() }, { quietMs: 10, signal: never() })
  input.write('ls\r\x03')
  input.write('x\x1dnever sent')
  expect(await bridged).toBe('escape')
  expect(input.rawModes).toEqual([true, false])
  await expect.poll(() => received.join('')).toBe('ls\r\x03x')
})

test('a pipe gets its answer, however it comes, and ends when the console is quiet', async () => {
  answer = (text, socket) => {
    socket.write(text.toUpperCase())
    setTimeout(() => socket.write('later'), 60)
  }
  const [input, output] = [new PassThrough(), new PassThrough()]
  const shown = collect(output)
  // Ctrl-] is the terminal's key: in a pipe it is a byte like others.
  input.end('hello\x1d')
  const end = await bridgeConsole(path, { input, output }, { quietMs: 150, signal: never() })
  expect(end).toBe('quiet')
  expect(shown()).toBe('HELLO\x1dlater')
})

test('it ends when the guest is gone', async () => {
  answer = (_text, socket) => socket.end('bye')
  const [input, output] = [new Terminal(), new PassThrough()]
  const shown = collect(output)
  input.write('poweroff\r')
  expect(await bridgeConsole(path, { input, output }, { quietMs: 10, signal: never() })).toBe('closed')
  expect(shown()).toBe('bye')
  expect(input.rawModes).toEqual([true, false])
})

test('an abort ends it and gives the terminal back', async () => {
  answer = () => {}
  const stop = new AbortController()
  const input = new Terminal()
  const bridged = bridgeConsole(
    path,
    { input, output: new PassThrough() },
    { quietMs: 10, signal: stop.signal },
  )
  setTimeout(() => stop.abort(), 20)
  await expect(bridged).rejects.toMatchObject({ name: 'AbortError' })
  expect(input.rawModes).toEqual([true, false])
})

function never(): AbortSignal {
  return new AbortController().signal
}
