import { join } from 'node:path'
import type { TemplateManifest } from '../domain/template.ts'

/** Files in a template's directory. Those from `state` to `disk` have the names of TEMPLATE_FILES. */
export interface DraftFiles {
  dir: string
  /** Canonical bytes of the manifest. */
  manifest: string
  /** Guest memory, sparse where it holds zeros. */
  ram: string
  state: string
  kernel: string
  initrd: string
  disk: string
  /** 32 bytes per page: what lets `verify` name the pages that are damaged. */
  pageHashes: string
}

/** Files of a sealed template, absolute; null where the template has none. */
export interface TemplateFiles extends Omit<DraftFiles, 'initrd' | 'disk'> {
  initrd: string | null
  disk: string | null
}

export function draftFiles(dir: string): DraftFiles {
  return {
    dir,
    manifest: join(dir, 'manifest'),
    ram: join(dir, 'ram'),
    state: join(dir, 'state'),
    kernel: join(dir, 'kernel'),
    initrd: join(dir, 'initrd'),
    disk: join(dir, 'disk'),
    pageHashes: join(dir, 'page-hashes'),
  }
}

export function sealedFiles(dir: string, manifest: TemplateManifest): TemplateFiles {
  const files = draftFiles(dir)
  return {
    ...files,
    initrd: manifest.initrd === null ? null : files.initrd,
    disk: manifest.disk === null ? null : files.disk,
  }
}
