/** How pages and device state look on the wire. Pure: bytes in, bytes out. */
export { type DecodedBatch, decodeBatch, type ReferencedPages, type TemplatePages } from './batch-decoder.ts'
export { BatchEncoder, MIN_DELTA_LEVEL } from './batch-encoder.ts'
export { classifyPage, ENCODINGS, type Encoding, isPlainDictionary, looksRandom } from './classify.ts'
export { type Compression, CompressionChoice, PATIENT } from './compression.ts'
export { compressDeviceState, decompressDeviceState, MAX_DEVICE_STATE_BYTES } from './device-state.ts'
export { CODEC_ERRORS, CodecError } from './errors.ts'
export { MAX_BATCH_PAGES, type PageGroup, REFERENCE_BYTES } from './page-group.ts'
export { PageHashes } from './page-hash.ts'
