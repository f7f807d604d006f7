import { chmod, cp, mkdir, readdir, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { templateId } from '../../src/template/index.ts'
import { addTemplate, codeOf, codeThrownBy, fill, machine, never, TestNode } from './fixture.ts'

test('a sealed template is there, read-only, sparse, and after a restart too', async () => {
  await using node = await TestNode.start()
  const record = await addTemplate(node.store, 'alpine', { disk: Buffer.from('disk') })
  const files = node.store.files(record.id)
  expect(files.dir).toBe(join(node.templatesDir, record.id))
  expect((await readdir(files.dir)).sort()).toEqual(
    ['disk', 'initrd', 'kernel', 'manifest', 'page-hashes', 'ram', 'state'].sort(),
  )
  for (const name of await readdir(files.dir)) {
    expect((await stat(join(files.dir, name))).mode & 0o777, name).toBe(0o444)
  }
  const ram = await stat(files.ram)
  expect(ram.size).toBe(machine.memoryBytes)
  expect(ram.blocks * 512).toBeLessThan(machine.memoryBytes / 10)
  expect(node.store.ramBytes(record.id)).toBe(ram.blocks * 512)
  expect(templateId(node.store.manifestBytes(record.id))).toBe(record.id)
  await node.restart()
  expect(node.store.list()).toEqual([record])
  expect(node.store.files(record.id)).toEqual(files)
})

test('a RAM file that somebody deletes under its VMs counts with all of its memory', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  await rm(node.store.files(id).ram)
  expect(node.store.ramBytes(id)).toBe(machine.memoryBytes)
})

test('a template without a disk has no path for one', async () => {
  await using node = await TestNode.start()
  const { id, manifest } = await addTemplate(node.store)
  expect(manifest.sizes.disk).toBe(0)
  expect(node.store.files(id).disk).toBeNull()
  expect(node.store.files(id).initrd).toMatch(/initrd$/)
})

test('a template is found by name, id and prefix', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'alpine')
  for (const ref of ['alpine', id, id.slice(0, 20)]) expect(node.store.resolve(ref).id).toBe(id)
  for (const ref of ['', 'alp', 'bafkrei', id.slice(0, 7), `${id}x`, '../alpine']) {
    expect(
      codeThrownBy(() => node.store.resolve(ref)),
      ref,
    ).toBe('TEMPLATE_NOT_FOUND')
  }
})

test('a prefix that two templates share stands for neither', async () => {
  await using node = await TestNode.start()
  const prefixes = new Map<string, string>()
  // 8 characters of an id hold 3 to 5 bits that differ: two of 33 must share them.
  for (let i = 0; i <= 32; i++) {
    const { id } = await addTemplate(node.store, null, { kernel: `kernel ${i}` })
    const prefix = id.slice(0, 8)
    if (prefixes.has(prefix)) {
      expect(codeThrownBy(() => node.store.resolve(prefix))).toBe('TEMPLATE_AMBIGUOUS')
      expect(node.store.resolve(id).id).toBe(id)
      return
    }
    prefixes.set(prefix, id)
  }
  expect.unreachable('33 templates, 33 different prefixes')
})

test('the same content twice is one template with both names', async () => {
  await using node = await TestNode.start()
  const first = await addTemplate(node.store, 'one')
  const second = await addTemplate(node.store, 'two')
  expect(second).toEqual({ ...first, names: ['one', 'two'] })
  expect(await readdir(node.templatesDir)).toEqual([first.id])
})

test('a name belongs to one template', async () => {
  await using node = await TestNode.start()
  const a = await addTemplate(node.store, 'a')
  const b = await addTemplate(node.store, 'b', { kernel: 'another' })
  await node.store.name(a.id, 'a')
  await node.store.name(a.id, 'also-a')
  expect(node.store.get(a.id).names).toEqual(['a', 'also-a'])
  expect(await codeOf(node.store.name(b.id, 'a'))).toBe('NAME_TAKEN')
  expect(await codeOf(addTemplate(node.store, 'a', { kernel: 'a third' }))).toBe('NAME_TAKEN')
  for (const name of ['', '../x', 'a/b', '-x', 'x'.repeat(64), a.id]) {
    expect(await codeOf(node.store.name(b.id, name)), name).toBe('NAME_INVALID')
  }
})

test('a reserved name is taken until it is released', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store)
  {
    using _name = node.store.reserveName('alpine')
    expect(codeThrownBy(() => node.store.reserveName('alpine'))).toBe('NAME_TAKEN')
    expect(await codeOf(node.store.name(id, 'alpine'))).toBe('NAME_TAKEN')
  }
  await node.store.name(id, 'alpine')
})

test('a template in use stays', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'alpine')
  node.vms.set(id, ['web', 'db'])
  await expect(node.store.remove('alpine')).rejects.toMatchObject({
    code: 'TEMPLATE_IN_USE',
    details: { id, vms: ['web', 'db'] },
  })
  expect(node.store.has(id)).toBe(true)
  node.vms.clear()
  await node.store.remove('alpine')
  expect(node.store.list()).toEqual([])
  expect(await readdir(node.templatesDir)).toEqual([])
  await node.restart()
  expect(node.store.list()).toEqual([])
})

test.each(['ram', 'state', 'kernel'] as const)('a draft without its %s file is not sealed', async (file) => {
  await using node = await TestNode.start()
  await using draft = await node.store.begin()
  await fill(draft)
  await rm(draft.files[file])
  expect(await codeOf(draft.seal(machine, null, { signal: never() }))).toBe('TEMPLATE_INCOMPLETE')
  expect(node.store.list()).toEqual([])
})

test('a RAM file of another size is not sealed', async () => {
  await using node = await TestNode.start()
  await using draft = await node.store.begin()
  await fill(draft)
  await truncate(draft.files.ram, machine.memoryBytes - 4096)
  expect(await codeOf(draft.seal(machine, null, { signal: never() }))).toBe('TEMPLATE_INCOMPLETE')
})

test('an aborted seal leaves nothing once the draft is discarded', async () => {
  await using node = await TestNode.start()
  const draft = await node.store.begin()
  await fill(draft)
  expect(await codeOf(draft.seal(machine, 'x', { signal: AbortSignal.abort() }))).toBe(DOMException.ABORT_ERR)
  await draft.discard()
  expect(await readdir(node.templatesDir)).toEqual([])
})

test('a crash before the rename leaves no template', async () => {
  await using node = await TestNode.start()
  const draft = await node.store.begin()
  await fill(draft)
  await node.restart()
  expect(node.store.list()).toEqual([])
  expect(await readdir(node.templatesDir)).toEqual([])
})

test('a crash between the rename and the index leaves a whole template without a name', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'alpine')
  await node.restart(async () => {
    await rm(join(node.dir, 'db'), { recursive: true })
  })
  expect(node.store.get(id).names).toEqual([])
  expect((await node.store.verify(id, { signal: never() })).ok).toBe(true)
  await node.store.name(id, 'alpine')
})

test('a crash in the middle of a removal removes', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'alpine')
  await node.restart(() => rename(join(node.templatesDir, id), join(node.templatesDir, 'removed-abcdef')))
  expect(node.store.list()).toEqual([])
  expect(await readdir(node.templatesDir)).toEqual([])
  await addTemplate(node.store, 'alpine', { kernel: 'another' })
})

test.each<[what: string, damage: (dir: string) => Promise<unknown>]>([
  ['a missing RAM file', (dir) => rm(join(dir, 'ram'))],
  ['a short RAM file', (dir) => truncate(join(dir, 'ram'), 4096)],
  ['a missing state file', (dir) => rm(join(dir, 'state'))],
  ['missing page hashes', (dir) => rm(join(dir, 'page-hashes'))],
  ['no manifest', (dir) => rm(join(dir, 'manifest'))],
  ['a changed manifest', (dir) => writeFile(join(dir, 'manifest'), 'x')],
  ['an empty directory', (dir) => rm(dir, { recursive: true }).then(() => mkdir(dir))],
])('a template with %s is kept apart, with the reason, and can be replaced', async (_, damage) => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'alpine')
  await node.restart(async () => {
    await damage(join(node.templatesDir, id))
  })
  expect(node.store.list()).toEqual([])
  expect(node.store.has(id)).toBe(false)
  expect(node.store.listDamaged()).toMatchObject([
    { id, names: ['alpine'], error: { code: 'TEMPLATE_DAMAGED' } },
  ])
  expect(codeThrownBy(() => node.store.resolve('alpine'))).toBe('TEMPLATE_DAMAGED')

  expect((await addTemplate(node.store, null)).names).toEqual(['alpine'])
  expect(node.store.listDamaged()).toEqual([])
  expect((await node.store.verify(id, { signal: never() })).ok).toBe(true)
  expect(await readdir(node.templatesDir)).toEqual([id])
})

test('a damaged template can be removed', async () => {
  await using node = await TestNode.start()
  const { id } = await addTemplate(node.store, 'alpine')
  await node.restart(() => rm(join(node.templatesDir, id, 'ram')))
  await node.store.remove(id.slice(0, 12))
  expect(node.store.listDamaged()).toEqual([])
  expect(await readdir(node.templatesDir)).toEqual([])
})

test('a manifest of a later version is no reason not to start', async () => {
  await using node = await TestNode.start()
  const bytes = Buffer.from([0x08, 0x03])
  const id = templateId(bytes)
  await node.restart(async () => {
    await mkdir(join(node.templatesDir, id))
    await writeFile(join(node.templatesDir, id, 'manifest'), bytes)
  })
  expect(node.store.listDamaged()).toMatchObject([{ id, names: [], error: { code: 'TEMPLATE_DAMAGED' } }])
  expect(codeThrownBy(() => node.store.get(id))).toBe('TEMPLATE_DAMAGED')
})

test('a directory under the id of another template is damaged', async () => {
  await using node = await TestNode.start()
  const a = await addTemplate(node.store, 'a')
  const b = await addTemplate(node.store, 'b', { kernel: 'another' })
  await node.restart(async () => {
    await rm(join(node.templatesDir, b.id), { recursive: true })
    await cp(join(node.templatesDir, a.id), join(node.templatesDir, b.id), { recursive: true })
    await chmod(join(node.templatesDir, b.id), 0o700)
  })
  expect(node.store.list().map(({ id }) => id)).toEqual([a.id])
  expect(node.store.listDamaged().map(({ id }) => id)).toEqual([b.id])
})
