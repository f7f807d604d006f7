/** How pages and device state look on the wire. Pure: bytes in, bytes out. */
export { classifyPage, ENCODINGS, type Encoding, looksRandom } from './classify.ts'
export { compressDeviceState, decompressDeviceState, MAX_DEVICE_STATE_BYTES } from './device-state.ts'
export { CODEC_ERRORS, CodecError } from './errors.ts'
export {
  type ClassifiedPage,
  decodeBatch,
  encodeBatch,
  MAX_BATCH_PAGES,
  type PageGroup,
  type TemplatePages,
} from './page-batch.ts'
export { PageHashes } from './page-hash.ts'
