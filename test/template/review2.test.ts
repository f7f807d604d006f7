import { randomBytes } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { PAGE_BYTES } from '../../src/domain/page.ts'
import { serveTemplate } from '../../src/template/index.ts'
import { addTemplate, codeOf, TestNode } from './fixture.ts'
import { fetchFrom, TestPeer } from './peers.ts'

test('M a fetch that was ended while it sealed is gone on with, by whoever is not root', {
  timeout: 20_000,
}, async () => {
  process.seteuid!(65534)
  await using source = await TestNode.start()
  await using target = await TestNode.start()
  const { id } = await addTemplate(source.store, null, { noise: { 0: randomBytes(100 * PAGE_BYTES) } })
  const controller = new AbortController()
  let done = false
  const fetching = codeOf(
    fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id, {
      signal: controller.signal,
      onProgress: ({ chunksDone, chunksTotal }) => {
        done ||= chunksDone === chunksTotal
      },
    }),
  )
  const dir = join(target.templatesDir, `fetch-${id}`)
  for (;;) {
    const sealed = await stat(join(dir, 'ram')).then(
      ({ mode }) => (mode & 0o777) === 0o444,
      () => false,
    )
    if (sealed) break
    if (target.store.has(id)) throw new Error('too late')
  }
  controller.abort()
  console.log('M first', await fetching, await readdir(target.templatesDir), done, 'uid', process.getuid!())
  expect(await codeOf(fetchFrom(new TestPeer(serveTemplate(source.store)), target.store, id))).toBe(
    'resolved',
  )
})
