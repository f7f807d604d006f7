/**
 * Templates by content: what one is (manifest, hashes), where this node keeps
 * them (store, draft), and how one comes into being here: booted and sealed
 * (create), made of another one (derive), or taken from a peer (fetch), who
 * serves it (serve).
 */
export {
  type CreateStep,
  type CreateTemplateRequest,
  createTemplate,
  type TemplateBoot,
  type TemplateBootRequest,
} from './create.ts'
export { DerivedTemplate, type DeriveOptions } from './derive.ts'
export type { TemplateDraft } from './draft.ts'
export { TEMPLATE_ERRORS, TemplateError } from './errors.ts'
export { type FetchTemplateRequest, type FetchTemplateResult, fetchTemplate } from './fetch.ts'
export type { DroppedProvider } from './fetch-many.ts'
export { chunkHash, hashPages } from './hashing.ts'
export type { DraftFiles, TemplateFiles } from './layout.ts'
export { checkMachine, decodeManifest, encodeManifest, templateId } from './manifest.ts'
export { TEMPLATE_PROTOCOL } from './protocol.ts'
export { readTemplateState } from './read-state.ts'
export { type RepairTemplateRequest, repairTemplate } from './repair.ts'
export { serveTemplate } from './serve.ts'
export { type Fetched, type FetchProgress, NOTHING_FETCHED } from './shared-fetches.ts'
export {
  type DamagedTemplate,
  TemplateStore,
  type TemplateStoreComponents,
  type TemplateStoreInit,
} from './store.ts'
export { type TemplateProvider, templateProviders } from './template-session.ts'
export type { DamagedFile, VerifyOptions, VerifyProgress, VerifyResult } from './verify.ts'
