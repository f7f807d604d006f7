import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import {
  type CreateTemplateRequest,
  createTemplate,
  type TemplateBoot,
  type TemplateBootRequest,
} from '../../src/template/index.ts'
import { aborted, codeOf, machine, never, TestNode } from './fixture.ts'

/** A guest that is ready at once. */
const quickBoot: TemplateBoot = async ({ state }) => {
  await writeFile(state, 'device state')
}

const forbiddenBoot: TemplateBoot = async () => {
  throw new Error('booted')
}

async function requestIn(
  node: TestNode,
  change: Partial<CreateTemplateRequest> = {},
): Promise<CreateTemplateRequest> {
  const kernelPath = join(node.dir, 'vmlinuz')
  await writeFile(kernelPath, 'kernel', { mode: 0o444 })
  const diskPath = join(node.dir, 'disk.raw')
  await writeFile(diskPath, 'disk')
  return {
    name: 'alpine',
    machine,
    kernelPath,
    initrdPath: null,
    diskPath,
    readyPattern: /ready/,
    readyTimeoutMs: 5000,
    signal: never(),
    ...change,
  }
}

test('boots on copies in a draft, and seals what the boot left', async () => {
  await using node = await TestNode.start()
  const request = await requestIn(node)
  let booted: TemplateBootRequest | null = null
  const steps: string[] = []
  const boot: TemplateBoot = async (given) => {
    booted = given
    const ram = await stat(given.ram)
    expect(ram).toMatchObject({ size: machine.memoryBytes, blocks: 0 })
    for (const path of [given.ram, given.kernel, given.disk!])
      expect((await stat(path)).mode & 0o777).toBe(0o600)
    await writeFile(given.disk!, 'written by the guest')
    await quickBoot(given)
  }
  const record = await createTemplate(node.store, boot, {
    ...request,
    onProgress: (step) => steps.push(step),
  })
  expect(steps).toEqual(['copy', 'boot', 'seal'])
  expect(booted).toMatchObject({ machine, initrd: null, readyPattern: /ready/ })
  expect(record.names).toEqual(['alpine'])
  const files = node.store.files(record.id)
  expect(await readFile(files.disk!, 'utf8')).toBe('written by the guest')
  expect(await readFile(request.diskPath!, 'utf8')).toBe('disk')
  expect(files.initrd).toBeNull()
  expect((await node.store.verify(record.id, { signal: never() })).ok).toBe(true)
})

test('a name that is taken, or being taken, fails before any work', async () => {
  await using node = await TestNode.start()
  const request = await requestIn(node)
  const started = Promise.withResolvers<void>()
  const goOn = Promise.withResolvers<void>()
  const first = createTemplate(
    node.store,
    async (given) => {
      started.resolve()
      await goOn.promise
      await quickBoot(given)
    },
    request,
  )
  await started.promise
  expect(await codeOf(createTemplate(node.store, forbiddenBoot, request))).toBe('NAME_TAKEN')
  goOn.resolve()
  await first
  expect(await codeOf(createTemplate(node.store, forbiddenBoot, request))).toBe('NAME_TAKEN')
})

test.each<[code: string, change: Partial<CreateTemplateRequest>]>([
  ['NAME_INVALID', { name: '../x' }],
  ['MACHINE_INVALID', { machine: { ...machine, machineType: 'q35' } }],
  ['MACHINE_INVALID', { machine: { ...machine, memoryBytes: 4096 } }],
  ['TEMPLATE_FILE_UNREADABLE', { kernelPath: '/nowhere/vmlinuz' }],
  ['TEMPLATE_FILE_UNREADABLE', { initrdPath: '/dev/null' }],
  ['TEMPLATE_FILE_UNREADABLE', { diskPath: '/' }],
  ['DISK_FULL', { machine: { ...machine, memoryBytes: 2 ** 40 } }],
])('%s before any work: %o', async (code, change) => {
  await using node = await TestNode.start()
  const request = await requestIn(node, change)
  expect(await codeOf(createTemplate(node.store, forbiddenBoot, request))).toBe(code)
  expect(await readdir(node.templatesDir)).toEqual([])
})

test('an empty file is none', async () => {
  await using node = await TestNode.start()
  const initrdPath = join(node.dir, 'empty')
  await writeFile(initrdPath, '')
  const request = await requestIn(node, { initrdPath })
  expect(await codeOf(createTemplate(node.store, forbiddenBoot, request))).toBe('TEMPLATE_FILE_UNREADABLE')
})

test.each<[what: string, boot: TemplateBoot, code: unknown]>([
  ['fails', forbiddenBoot, 'Error'],
  ['saves no state', async () => {}, 'TEMPLATE_INCOMPLETE'],
  [
    'never gets ready',
    async ({ signal }) => {
      await aborted(signal)
      throw new Error('QEMU quit')
    },
    'TEMPLATE_NOT_READY',
  ],
])('nothing is left of a boot that %s, and its name is free', async (_, boot, code) => {
  await using node = await TestNode.start()
  const request = await requestIn(node, { readyTimeoutMs: 200 })
  expect(await codeOf(createTemplate(node.store, boot, request))).toBe(code)
  expect(await readdir(node.templatesDir)).toEqual([])
  await createTemplate(node.store, quickBoot, await requestIn(node))
})

test('a cancelled boot ends before its draft goes', async () => {
  await using node = await TestNode.start()
  const cancel = new AbortController()
  const boot: TemplateBoot = async ({ signal, ram }) => {
    cancel.abort(new Error('cancelled'))
    await aborted(signal)
    await stat(ram)
    throw signal.reason
  }
  const request = await requestIn(node, { signal: cancel.signal })
  await expect(createTemplate(node.store, boot, request)).rejects.toThrow('cancelled')
  expect(await readdir(node.templatesDir)).toEqual([])
})
