import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmod, readdir, readFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { GuestMemory, hashTracker, probeSoftDirty, softDirtyTracker } from '../../src/memory/index.ts'
import { findGuestMapping } from '../../src/memory/mapping.ts'
import { type BareMemory, startBareMemory } from '../support/bare-memory.ts'

const PAGES = 4096
const MEMORY_BYTES = PAGES * PAGE_BYTES

let bare: BareMemory

beforeAll(async () => {
  bare = await startBareMemory(PAGES)
})
afterAll(() => bare?.[Symbol.asyncDispose]())

const openMemory = () => bare.open()
const writeGuest = (page: number, content: Uint8Array) => bare.write(page, content)

test('pages become private one by one as they are written, and the template stays as it is', async () => {
  await using memory = await openMemory()
  expect(memory.pages).toBe(PAGES)
  expect(await memory.counts()).toMatchObject({ guest: PAGES, private: 0 })
  const written = [0, 3, 4, 1000, PAGES - 1]
  for (const page of written) await writeGuest(page, randomBytes(PAGE_BYTES))
  const scan = await memory.scan()
  expect([...scan.private]).toEqual(written)
  expect(scan.counts.private + scan.counts.shared + scan.counts.untouched).toBe(PAGES)
  expect((await readFile(bare.ramPath)).equals(bare.template)).toBe(true)
})

test('a run across private and shared pages reads as the guest sees it', async () => {
  await using memory = await openMemory()
  const { template } = bare
  const content = randomBytes(PAGE_BYTES)
  await writeGuest(2000, content)
  const buffer = Buffer.alloc(3 * PAGE_BYTES)
  memory.read({ first: 1999, end: 2002 }, buffer)
  expect(buffer.subarray(0, PAGE_BYTES).equals(template.subarray(1999 * PAGE_BYTES, 2000 * PAGE_BYTES))).toBe(
    true,
  )
  expect(buffer.subarray(PAGE_BYTES, 2 * PAGE_BYTES).equals(content)).toBe(true)
  expect(
    buffer.subarray(2 * PAGE_BYTES).equals(template.subarray(2001 * PAGE_BYTES, 2002 * PAGE_BYTES)),
  ).toBe(true)
})

test('the hash tracker names every private page each time', async () => {
  await using memory = await openMemory()
  const tracker = hashTracker(memory)
  await writeGuest(77, randomBytes(8))
  const first = await tracker.next()
  const second = await tracker.next()
  expect(first.candidates.has(77)).toBe(true)
  expect([...second.candidates]).toEqual([...first.private])
})

const softDirty = await probeSoftDirty()
test('the soft-dirty tracker names what was written since', async ({ skip }) => {
  skip(
    !softDirty,
    'this kernel has no soft-dirty: test/vm/soft-dirty.test.ts tries it in a guest whose kernel has',
  )
  await using memory = await openMemory()
  const tracker = softDirtyTracker(memory)
  await writeGuest(10, randomBytes(8))
  expect((await tracker.next()).candidates.has(10)).toBe(true)
  expect((await tracker.next()).candidates.count).toBe(0)
  await writeGuest(11, randomBytes(8))
  await writeGuest(3000, randomBytes(8))
  expect([...(await tracker.next()).candidates]).toEqual([11, 3000])
})

test('the soft-dirty probe leaves no process behind', async () => {
  const before = await childPids()
  await probeSoftDirty()
  expect(await childPids()).toEqual(before)
})

/** Field 4 of /proc/PID/stat is the parent (proc(5)). */
async function childPids(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const stats = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')))
  return pids.filter(
    (_, i) => stats[i]!.slice(stats[i]!.lastIndexOf(')')).split(' ')[2] === String(process.pid),
  )
}

test('memory that is not there has an error that says so', async () => {
  const open = (vm: { pid: number; ramPath: string; memoryBytes: number }) => GuestMemory.open(vm)
  const { pid, ramPath } = bare
  const otherFile = new URL(import.meta.url).pathname
  await expect(open({ pid, ramPath: otherFile, memoryBytes: MEMORY_BYTES })).rejects.toMatchObject({
    code: 'MEMORY_MAPPING_NOT_FOUND',
  })
  await expect(open({ pid, ramPath, memoryBytes: MEMORY_BYTES * 2 })).rejects.toMatchObject({
    code: 'MEMORY_MAPPING_NOT_FOUND',
  })
  await expect(open({ pid: 2 ** 22 - 1, ramPath, memoryBytes: MEMORY_BYTES })).rejects.toMatchObject({
    code: 'MEMORY_PROCESS_GONE',
  })
})

test('another user may not look in, and is told the remedy', async ({ skip }) => {
  skip(process.getuid?.() !== 0, 'only root can act as another user')
  await chmod(bare.dir, 0o755)
  process.seteuid!(65534)
  try {
    await expect(openMemory()).rejects.toMatchObject({
      code: 'MEMORY_NOT_PERMITTED',
      message: expect.stringContaining('CAP_SYS_PTRACE'),
    })
  } finally {
    process.seteuid!(0)
  }
})

test('a process that ends while it is read', async () => {
  await using memory = await openMemory()
  await bare.kill()
  await expect(memory.scan()).rejects.toMatchObject({ code: 'MEMORY_PROCESS_GONE' })
  await expect(softDirtyTracker(memory).next()).rejects.toMatchObject({ code: 'MEMORY_PROCESS_GONE' })
  expect(() => memory.read({ first: 0, end: 1 }, Buffer.alloc(PAGE_BYTES))).toThrow(
    expect.objectContaining({ code: 'MEMORY_PROCESS_GONE' }),
  )
})

test('a process that has just ended, and waits to be heard of, is gone', async () => {
  // Its parent is a shell that doesn't wait for it: a zombie, whose memory is gone and whose number isn't.
  const shell = spawn('sh', ['-c', 'sleep 0.3 & echo $!; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  try {
    const [said] = (await once(shell.stdout!, 'data')) as [Buffer]
    const pid = Number(said.toString())
    await expect.poll(() => readFile(`/proc/${pid}/stat`, 'utf8'), { timeout: 5_000 }).toMatch(/\) Z /)
    await expect(findGuestMapping(pid, process.execPath, 4096)).rejects.toMatchObject({
      code: 'MEMORY_PROCESS_GONE',
    })
  } finally {
    shell.kill('SIGKILL')
  }
})
