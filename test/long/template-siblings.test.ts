/** Templates that have much in common, and nodes that have one of them: real guests, real agents. */
import { createHash, randomBytes } from 'node:crypto'
import { chmod, open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { constants, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { GcReply, PullTemplateReply, VerifyReply } from '../../src/agent/api-schema.ts'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { testGuest } from '../support/guest.ts'
import { inGuest, move, removeVm, runVm, TwoNodes } from '../support/two-nodes.ts'

const HASH_BYTES = 32
/** Of what differs, compressed. */
const MAX_SHARE = 1.05
/** As many pages as are compressed together on the wire. */
const BATCH_PAGES = 256

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '256M', fillMib: 48 })
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

function templateFile(agent: { dataDir: string }, id: string, file: string): string {
  return join(agent.dataDir, 'templates', id, file)
}

/** Distinct pages, zeros aside, that one template has in its files and others don't. */
async function differing(dataDir: string, id: string, others: readonly string[]): Promise<Buffer[]> {
  const hashesOf = async (template: string): Promise<string[]> => {
    const bytes = await readFile(templateFile({ dataDir }, template, 'page-hashes'))
    return Array.from({ length: bytes.length / HASH_BYTES }, (_, page) =>
      bytes.toString('latin1', page * HASH_BYTES, (page + 1) * HASH_BYTES),
    )
  }
  const zero = createHash('sha256').update(Buffer.alloc(PAGE_BYTES)).digest().toString('latin1')
  const seen = new Set([zero, ...(await Promise.all(others.map(hashesOf))).flat()])
  const contents = Buffer.concat(
    await Promise.all(
      ['ram', 'state', 'kernel', 'initrd'].map((file) => padded(templateFile({ dataDir }, id, file))),
    ),
  )
  const pages: Buffer[] = []
  for (const [page, hash] of (await hashesOf(id)).entries()) {
    if (seen.has(hash)) continue
    seen.add(hash)
    pages.push(contents.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES))
  }
  return pages
}

/** A file as it lies in its template: filled with zeros to whole chunks. */
async function padded(path: string): Promise<Buffer> {
  const bytes = await readFile(path)
  const chunkBytes = BATCH_PAGES * PAGE_BYTES
  return Buffer.concat([
    bytes,
    Buffer.alloc(Math.ceil(bytes.length / chunkBytes) * chunkBytes - bytes.length),
  ])
}

function compressedBytes(pages: readonly Buffer[]): number {
  let sum = 0
  for (let at = 0; at < pages.length; at += BATCH_PAGES) {
    const batch = Buffer.concat(pages.slice(at, at + BATCH_PAGES))
    sum += zstdCompressSync(batch, { params: { [constants.ZSTD_c_compressionLevel]: 1 } }).length
  }
  return sum
}

test('of a sibling, booted with another program in it, little more travels than what differs', async () => {
  const { source, destination, templateId } = nodes
  const { kernel, initrd, append } = await testGuest()
  // The same kernel and base; the "program" is noise that the other one does not have.
  const { id } = await source.json<{ id: string }>(
    ...['template', 'create', 'sibling', '--memory', '256M', '--ready', 'drover-guest ready'],
    ...['--kernel', kernel, '--initrd', initrd, '--append', `${append} drover.fill=8`],
  )
  const limit = compressedBytes(await differing(source.dataDir, id, [templateId]))
  const pulled = await destination.json<PullTemplateReply & Record<string, unknown>>('template', 'pull', id)
  const wire = pulled.bytesReceived + pulled.bytesSent
  console.log(`${wire} bytes on the wire, ${limit} differ, compressed: ${(wire / limit).toFixed(4)}`)
  expect(wire).toBeLessThanOrEqual(MAX_SHARE * limit)
  expect(await destination.json('template', 'verify', id, '--no-repair')).toMatchObject({ ok: true })
  await destination.json('template', 'rm', id)
})

test('a template made of a clone costs what the clone changed, and a VM on it brings it along', async () => {
  const { source, destination, templateId } = nodes
  await runVm(source, 'web')
  await inGuest(source, 'web', 'workload data 4 program')
  const { id } = await source.json<{ id: string }>('template', 'create', 'warm', '--from-vm', 'web')
  const limit = compressedBytes(await differing(source.dataDir, id, [templateId]))
  await source.json('vm', 'run', 'warm-1', '--template', 'warm')
  const report = await move(source, 'warm-1', destination)
  console.log(`${report.bytes.template} bytes for the template, ${limit} differ, compressed`)
  expect(report.bytes.template).toBeLessThanOrEqual(MAX_SHARE * limit)
  expect(await inGuest(destination, 'warm-1', 'workload check')).toBe('ok')
  await removeVm(destination, 'warm-1')
  await removeVm(source, 'web')
  await destination.json('template', 'rm', id)
})

test('damage is repaired page by page from the other node; nobody is asked with --no-repair', async () => {
  const { destination, templateId } = nodes
  const ram = templateFile(destination, templateId, 'ram')
  await chmod(ram, 0o600)
  {
    await using file = await open(ram, 'r+')
    for (const page of [7, 4711]) await file.write(randomBytes(64), 0, 64, page * PAGE_BYTES + 100)
  }
  const found = await destination.run(['template', 'verify', templateId, '--no-repair', '--json'])
  expect(found.code).toBe(1)
  const damaged = [{ file: 'ram', pages: [7, 4711] }]
  expect(JSON.parse(found.stdout)).toMatchObject({
    ok: false,
    templates: [{ ok: false, damaged, repaired: null }],
  })

  const repaired = await destination.json<VerifyReply & Record<string, unknown>>(
    'template',
    'verify',
    templateId,
  )
  expect(repaired).toMatchObject({ ok: true, templates: [{ ok: true, damaged, error: null }] })
  // Two lists of hashes and two pages.
  expect(repaired.templates[0]!.repaired!.bytesReceived).toBeLessThan(16 * 1024 + 2 * PAGE_BYTES)
  expect(await destination.json('template', 'verify', templateId, '--no-repair')).toMatchObject({ ok: true })
  await destination.json('vm', 'run', 'sound', '--template', templateId)
  await removeVm(destination, 'sound')
})

test('gc keeps what a VM needs, and removes what others have, the longest unused first', async () => {
  const { source, destination, templateId } = nodes
  const { templates } = await source.json<{ templates: { id: string; names: string[] }[] }>('template', 'ls')
  const sibling = templates.find(({ names }) => names.includes('sibling'))!
  await destination.json('template', 'pull', sibling.id)
  await destination.json('vm', 'run', 'keeper', '--template', templateId)
  expect(await destination.json<GcReply & Record<string, unknown>>('template', 'gc')).toMatchObject({
    removed: [],
  })
  const collected = await destination.json<GcReply & Record<string, unknown>>(
    'template',
    'gc',
    '--limit',
    '1M',
  )
  expect(collected.removed.map(({ id }) => id)).toEqual([sibling.id])
  expect(await destination.json('template', 'ls')).toMatchObject({ templates: [{ id: templateId }] })
  await removeVm(destination, 'keeper')
})
