/** 256 raw pages and their indices; on their way into QEMU, 256 pages and the stream's headers. */
export const MAX_PAGES_FRAME_BYTES = 1024 * 1024 + 16 * 1024
