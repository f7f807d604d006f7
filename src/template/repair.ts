import { chmod } from 'node:fs/promises'
import type { TemplateId } from '../domain/template.ts'
import { DRAFT_FILE_MODE, sealFile } from './disk.ts'
import { type DroppedProvider, FetchMany } from './fetch-many.ts'
import { IncomingTemplate } from './incoming.ts'
import { draftFiles, sealedFiles } from './layout.ts'
import { LocalPages } from './local-pages.ts'
import type { Fetched } from './shared-fetches.ts'
import type { TemplateStore } from './store.ts'
import type { TemplateProvider } from './template-session.ts'

export interface RepairTemplateRequest {
  store: TemplateStore
  id: TemplateId
  /** Peers that may have it, the best first. */
  providers: readonly TemplateProvider[]
  signal: AbortSignal
  onDropped?: ((dropped: DroppedProvider) => void) | undefined
}

/**
 * Makes a template's files what they should be again, in place: a page that is
 * damaged is taken from other templates here, or from peers; nothing else is
 * written, so clones that run from it see the right page from then on. A crash
 * in between leaves a template that can be repaired as before.
 *
 * @throws TemplateError TEMPLATE_NOT_FOUND, TEMPLATE_INCOMPLETE when nobody has what is lacking; what the last
 *   provider failed with; the signal's reason
 */
export async function repairTemplate(request: RepairTemplateRequest): Promise<Fetched> {
  const { store, id, signal } = request
  return store.fetches.fetch(id, (shared) => repair(request, shared), { signal })
}

async function repair(
  { store, id, providers, onDropped = () => {} }: RepairTemplateRequest,
  signal: AbortSignal,
): Promise<Fetched> {
  const startedMs = performance.now()
  const { manifest } = store.get(id)
  const { dir } = store.files(id)
  const { manifest: manifestPath, dir: _, ...paths } = sealedFiles(dir, manifest)
  const contents = Object.values(paths).filter((path) => path !== null)
  for (const path of contents) await chmod(path, DRAFT_FILE_MODE).catch(ignoreMissing)
  try {
    await using local = new LocalPages({ store, index: store.pageIndex })
    await using incoming = await IncomingTemplate.open(draftFiles(dir), manifest, {
      baseRamPath: null,
      signal,
    })
    const many = new FetchMany(
      { incoming, local, similar: null, onDropped, onProgress: () => {} },
      { templateId: id, signal },
    )
    if (incoming.missing.size > 0 && providers.length > 0) {
      for (const provider of providers) many.add(provider)
      await many.run()
    }
    incoming.requireComplete()
    await store.rewriteManifest(id)
    const transferMs = performance.now() - startedMs
    return { bytesReceived: many.bytesReceived, bytesSent: many.bytesSent, from: many.from, transferMs }
  } finally {
    for (const path of [...contents, manifestPath]) await sealFile(path).catch(ignoreMissing)
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}
