import { once } from 'node:events'
import { createConnection, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { expect, onTestFinished, test } from 'vitest'
import { IncomingStream, QemuError, readStateFile } from '../../src/qemu/index.ts'
import { temporaryDirectory } from '../support/qemu-guest.ts'

const DEVICE_STATE = Buffer.concat([Buffer.from('QEVM\0\0\0\x03'), Buffer.from([0x04, 1, 2, 3, 0x00])])
const BLOCKS = [
  { name: 'ram0', usedBytes: 512 * 1024 * 1024 },
  { name: 'pc.bios', usedBytes: 256 * 1024 },
]

const pattern = (byte: number) => Buffer.alloc(4096, byte)
const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')

/** A stream and the socket that QEMU would read. */
async function connectedStream(): Promise<{ stream: IncomingStream; qemuSide: Socket }> {
  const dir = await temporaryDirectory()
  const server = createServer()
  server.listen(join(dir.path, 's'))
  await once(server, 'listening')
  const socket = createConnection(join(dir.path, 's'))
  const [qemuSide] = (await once(server, 'connection')) as [Socket]
  onTestFinished(async () => {
    socket.destroy()
    qemuSide.destroy()
    server.close()
    await dir[Symbol.asyncDispose]()
  })
  const explain = async (cause: unknown) =>
    new QemuError('INCOMING_FAILED', 'QEMU stopped reading', { cause })
  return { stream: new IncomingStream(socket, { loaded: async () => {}, explain }), qemuSide }
}

test('the bytes of a small VM, as stream-format.ts draws them', async () => {
  const { stream, qemuSide } = await connectedStream()
  const received = buffer(qemuSide)
  await stream.begin({ machineType: 'pc-q35-7.2', blocks: BLOCKS })
  await stream.writePages('ram0', [
    { offsetBytes: 0x123000, content: pattern(0xaa) },
    { offsetBytes: 0x124000, content: pattern(0xbb) },
  ])
  await stream.writeZeroPages('ram0', [0x125000, 0x1ffff000])
  await stream.writePages('pc.bios', [])
  await stream.writeZeroPages('pc.bios', [])
  await stream.finish(DEVICE_STATE)
  await stream.loaded()

  const ends = hex('0000000000000010 7e 00000002')
  expect(await received).toEqual(
    Buffer.concat([
      hex('5145564d 00000003 07 0000000a 70632d7133352d372e32'),
      hex('01 00000002 03 72616d 00000000 00000004'),
      hex('0000000020040004 04 72616d30 0000000020000000 07 70632e62696f73 0000000000040000'),
      ends,
      hex('02 00000002 0000000000123008 04 72616d30'),
      pattern(0xaa),
      hex('0000000000124028'),
      pattern(0xbb),
      ends,
      hex('02 00000002 0000000000125002 04 72616d30 00'),
      hex('000000001ffff022 00'),
      ends,
      hex('03 00000002'),
      ends,
      hex('04 010203 00 06 00000002 7b7d'),
    ]),
  )
})

test('offsets beyond 4 GiB', async () => {
  const { stream, qemuSide } = await connectedStream()
  const received = buffer(qemuSide)
  await stream.begin({ machineType: 'm', blocks: [{ name: 'ram0', usedBytes: 2 ** 40 }] })
  await stream.writePages('ram0', [{ offsetBytes: 2 ** 40 - 4096, content: pattern(1) }])
  await stream.finish(DEVICE_STATE)
  await stream.loaded()
  expect((await received).includes(hex('000000fffffff008 04 72616d30'))).toBe(true)
})

test('what it writes, it can read: the stream is a state file', async () => {
  const { stream, qemuSide } = await connectedStream()
  const received = buffer(qemuSide)
  await stream.begin({ machineType: 'pc-q35-7.2', blocks: BLOCKS })
  await stream.writePages('pc.bios', [{ offsetBytes: 4096, content: pattern(7) }])
  await stream.writeZeroPages('ram0', [8192])
  await stream.finish(DEVICE_STATE)
  await stream.loaded()
  const bytes = await received
  expect(readStateFile(bytes)).toEqual({
    machineType: 'pc-q35-7.2',
    ramEndBytes: bytes.indexOf(DEVICE_STATE.subarray(8)),
    blocks: [
      { ...BLOCKS[0], pages: [{ offsetBytes: 8192, content: null }] },
      { ...BLOCKS[1], pages: [{ offsetBytes: 4096, content: pattern(7) }] },
    ],
  })
})

test('a reader that pauses holds the writer back', async () => {
  const { stream, qemuSide } = await connectedStream()
  await stream.begin({ machineType: 'm', blocks: BLOCKS })
  const pages = Array.from({ length: 1024 }, (_, i) => ({ offsetBytes: i * 4096, content: pattern(i) }))
  let isWritten = false
  const writing = stream.writePages('ram0', pages).then(() => {
    isWritten = true
  })
  await once(qemuSide, 'readable')
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(isWritten).toBe(false)
  qemuSide.resume()
  await writing
})

test('a reader that hangs ends the writer in time, an abort at once; the stream is over then', async () => {
  const reason = new Error('cancelled')
  const pages = Array.from({ length: 1024 }, (_, i) => ({ offsetBytes: i * 4096, content: pattern(i) }))
  const failed = { code: 'INCOMING_FAILED' }
  const hanging = await connectedStream()
  await hanging.stream.begin({ machineType: 'm', blocks: BLOCKS })
  await expect(hanging.stream.writePages('ram0', pages, { timeoutMs: 20 })).rejects.toMatchObject(failed)
  await expect(hanging.stream.writeZeroPages('ram0', [0])).rejects.toMatchObject(failed)

  const aborted = await connectedStream()
  await aborted.stream.begin({ machineType: 'm', blocks: BLOCKS })
  const controller = new AbortController()
  const writing = aborted.stream.writePages('ram0', pages, { signal: controller.signal })
  controller.abort(reason)
  await expect(writing).rejects.toBe(reason)
  await expect(aborted.stream.finish(DEVICE_STATE)).rejects.toMatchObject(failed)
})

test('a QEMU that is gone ends the writer with its explanation', async () => {
  const { stream, qemuSide } = await connectedStream()
  await stream.begin({ machineType: 'm', blocks: BLOCKS })
  qemuSide.destroy()
  const pages = Array.from({ length: 1024 }, (_, i) => ({ offsetBytes: i * 4096, content: pattern(i) }))
  const endless = async () => {
    for (;;) await stream.writePages('ram0', pages)
  }
  await expect(endless()).rejects.toMatchObject({ code: 'INCOMING_FAILED' })
  await expect(stream.finish(DEVICE_STATE)).rejects.toMatchObject({ code: 'INCOMING_FAILED' })
})

test('calls out of order and pages out of place are refused', async () => {
  const { stream } = await connectedStream()
  const misused = { code: 'INCOMING_MISUSED' }
  const page = pattern(1)
  await expect(stream.writePages('ram0', [])).rejects.toMatchObject(misused)
  await expect(stream.finish(DEVICE_STATE)).rejects.toMatchObject(misused)
  await expect(stream.loaded()).rejects.toMatchObject(misused)
  await stream.begin({ machineType: 'm', blocks: BLOCKS })
  await expect(stream.begin({ machineType: 'm', blocks: BLOCKS })).rejects.toMatchObject(misused)
  for (const [block, offsetBytes, content] of [
    ['other', 0, page],
    ['pc.bios', 256 * 1024, page],
    ['pc.bios', -4096, page],
    ['pc.bios', 1, page],
    ['pc.bios', 0, page.subarray(1)],
  ] as const) {
    await expect(stream.writePages(block, [{ offsetBytes, content }])).rejects.toMatchObject(misused)
  }
  await expect(stream.writeZeroPages('pc.bios', [1])).rejects.toMatchObject(misused)
  await expect(stream.finish(Buffer.from('QEVM'))).rejects.toMatchObject(misused)
})
