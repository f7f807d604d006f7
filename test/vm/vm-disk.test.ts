import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Bench, type TestNode } from './vm-fixture.ts'

const TEST_TIMEOUT_MS = 90_000
const DISK_BYTES = 16 * 1024 ** 2

let imageDir: string
let bench: Bench
let node: TestNode

beforeAll(async () => {
  imageDir = await mkdtemp(join(tmpdir(), 'drover-vm-image-'))
  const diskPath = join(imageDir, 'disk.raw')
  const image = Buffer.alloc(DISK_BYTES)
  image.write('of the template\n')
  await writeFile(diskPath, image)
  bench = await Bench.create({ diskPath })
  node = await bench.start()
})
afterAll(async () => {
  await node.stop()
  await bench[Symbol.asyncDispose]()
  await rm(imageDir, { recursive: true })
})

function signal(): AbortSignal {
  return AbortSignal.timeout(TEST_TIMEOUT_MS)
}

/** Writes to the guest's disk, and reads back what is on it. */
async function writeDisk(name: string, text: string): Promise<string> {
  await using console = await node.console(name)
  await console.run(`printf '%s\\n' '${text}' | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null`)
  return await console.run('dd if=/dev/vda bs=512 count=1 2>/dev/null | head -n 1')
}

test('clones write to overlays of their own, the template stays as it is, and no VM with one is moved', async () => {
  const options = { signal: signal() }
  const run = (name: string) => node.vms.run({ name, templateRef: 'base', nics: [] }, options)
  const [a, b] = await Promise.all([run('a'), run('b')])
  const overlay = (id: string) => join(bench.dataDir, 'vms', id, 'overlay.qcow2')
  expect(a.spec.hasDisk).toBe(true)
  {
    await using console = await node.console('b')
    expect(await console.run('head -n 1 /dev/vda')).toBe('of the template')
  }
  expect(await writeDisk('a', 'of clone a')).toBe('of clone a')
  expect(await writeDisk('b', 'of clone b')).toBe('of clone b')
  const disk = await readFile(node.templates.files(a.spec.templateId).disk!)
  expect(disk.toString('utf8', 0, 15)).toBe('of the template')

  await expect(node.vms.depart('a', 'a-move')).rejects.toMatchObject({ code: 'VM_DISK_NOT_MOVABLE' })
  await expect(node.vms.seal('a', 'derived', options)).rejects.toMatchObject({
    code: 'TEMPLATE_NOT_DERIVABLE',
    details: { reasons: [expect.stringContaining('disk')] },
  })
  expect(node.vms.get('a').state.kind).toBe('running')

  // A committed VM's disk is kept over restarts, a stopped VM's too; rm is what removes it.
  await node.vms.stopVm('b', { force: true, ...options })
  await node.stop()
  node = await bench.start()
  expect((await stat(overlay(b.spec.id))).size).toBeGreaterThan(0)
  await using console = await node.console('a')
  expect(await console.run('head -n 1 /dev/vda')).toBe('of clone a')
  await node.vms.stopVm('a', { force: true, ...options })
  for (const { spec } of [a, b]) {
    await node.vms.remove(spec.name)
    await expect(stat(join(overlay(spec.id), '..'))).rejects.toMatchObject({ code: 'ENOENT' })
  }
})
