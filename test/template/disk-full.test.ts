/** Templates on a disk that is full to the last byte: what was begun leaves nothing, and removing works. */
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createTemplate, DerivedTemplate, type TemplateBoot } from '../../src/template/index.ts'
import { SmallDisk } from '../support/small-disk.ts'
import { addTemplate, codeOf, machine, never, TestNode } from './fixture.ts'

/** On a disk that a boot of a template fills, before it does `then`. */
async function create(node: TestNode, disk: SmallDisk, then: TemplateBoot): Promise<unknown> {
  const kernelPath = join(node.dir, 'vmlinuz')
  await writeFile(kernelPath, 'kernel')
  const request = { name: 'new', machine, kernelPath, initrdPath: null, diskPath: null }
  const boot: TemplateBoot = async (given) => {
    await disk.fill()
    await then(given)
  }
  const waits = { readyPattern: /ready/, readyTimeoutMs: 5000, signal: never() }
  return createTemplate(node.store, boot, { ...request, ...waits })
}

test.for<[string, TemplateBoot]>([
  ['its state does not fit', (given) => writeFile(given.state, Buffer.alloc(1024 ** 2, 1))],
  ['its guest is killed for want of memory', () => Promise.reject(new Error('QEMU was ended by SIGBUS'))],
])('a template that is booted while others fill the disk, and %s', async ([, then], { skip }) => {
  const mounted = await SmallDisk.mount(64)
  if (typeof mounted === 'string') return skip(mounted)
  await using disk = mounted
  await using node = await TestNode.start(disk.path)
  expect(await codeOf(create(node, disk, then))).toBe('DISK_FULL')
  expect(await readdir(node.templatesDir)).toEqual([])
  expect(node.store.list()).toEqual([])
})

test('a template is removed on a full disk, and another one is not derived of it', async ({ skip }) => {
  const mounted = await SmallDisk.mount(64)
  if (typeof mounted === 'string') return skip(mounted)
  await using disk = mounted
  await using node = await TestNode.start(disk.path)
  const { id } = await addTemplate(node.store, 'old')
  await disk.fill()
  const options = { ownPages: 1, signal: never() }
  expect(await codeOf(DerivedTemplate.open(node.store, id, options))).toBe('DISK_FULL')
  await node.store.remove('old')
  expect(await readdir(node.templatesDir)).toEqual([])
  await disk.free()
  await node.restart()
  expect(node.store.list()).toEqual([])
})
