import { randomBytes } from 'node:crypto'
import { mkdir, mkdtempDisposable, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { missingPages, usedRamBytes } from './template-pages.ts'

test('each page counts once, whatever file it is in; zeros and what another template has do not', async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), 'drover-pages-'))
  const [a, b, c, d] = Array.from({ length: 4 }, () => randomBytes(PAGE_BYTES)) as [
    Buffer,
    Buffer,
    Buffer,
    Buffer,
  ]
  const zero = Buffer.alloc(PAGE_BYTES)
  const write = async (name: string, files: Record<string, Buffer[]>) => {
    await mkdir(join(dir.path, name))
    for (const [file, pages] of Object.entries(files))
      await writeFile(join(dir.path, name, file), Buffer.concat(pages))
    return join(dir.path, name, 'ram')
  }
  // The kernel ends in the middle of a page.
  const one = await write('one', { ram: [a, zero, b, a], kernel: [b, c, randomBytes(10)], state: [d] })
  const other = await write('other', { ram: [zero, d], state: [a] })

  expect(await usedRamBytes(one)).toBe(3 * PAGE_BYTES)
  const alone = await missingPages(one, [])
  expect(alone.pages).toBe(5)
  expect(alone.zstdBytes).toBeGreaterThan(4 * PAGE_BYTES)
  expect((await missingPages(one, [other])).pages).toBe(3)
  expect((await missingPages(one, [one])).pages).toBe(0)
})
