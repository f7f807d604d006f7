/** Templates large enough that fetching one takes a while; made of noise, without a guest. */
import { randomFillSync } from 'node:crypto'
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Level } from 'level'
import { CHUNK_BYTES } from '../../src/domain/page.ts'
import type { MachineSpec, TemplateRecord } from '../../src/domain/template.ts'
import { TemplateStore } from '../../src/template/index.ts'

const machine = (memoryBytes: number): MachineSpec => ({
  machineType: 'pc-q35-7.2',
  accelerator: 'tcg',
  cpuModel: 'qemu64-v1',
  cpus: 1,
  memoryBytes,
  spareRootPorts: 4,
  kernelCommandLine: 'console=ttyS0',
})

/** A template store in a directory, closed and gone at the end unless it is kept. */
export interface LargeTemplate extends AsyncDisposable {
  store: TemplateStore
  record: TemplateRecord
  /** Of the template's files: what a store may be given as its own. */
  dir: string
  templatesDir: string
}

/** @param chunks - of memory, none of which compresses */
export async function largeTemplate(chunks: number): Promise<LargeTemplate> {
  const dir = await mkdtemp(join(tmpdir(), 'drover-large-'))
  const db = new Level<string, unknown>(join(dir, 'db'), { valueEncoding: 'json' })
  await db.open()
  const templatesDir = join(dir, 'templates')
  const store = new TemplateStore({ db }, { dir: templatesDir, inUseBy: () => [] })
  await store.start()
  const draft = await store.begin()
  {
    await using ram = await open(draft.files.ram, 'w')
    const chunk = Buffer.alloc(CHUNK_BYTES)
    for (let i = 0; i < chunks; i++) await ram.write(randomFillSync(chunk), 0, CHUNK_BYTES, i * CHUNK_BYTES)
  }
  await writeFile(draft.files.state, 'device state')
  await writeFile(draft.files.kernel, 'kernel')
  const signal = new AbortController().signal
  const record = await draft.seal(machine(chunks * CHUNK_BYTES), null, { signal })
  return {
    store,
    record,
    dir: store.files(record.id).dir,
    templatesDir,
    [Symbol.asyncDispose]: async () => {
      await store.stop()
      await db.close()
      await rm(dir, { recursive: true, force: true })
    },
  }
}
