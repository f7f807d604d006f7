/** One template, handed from one agent to another: `template.proto`. */
export const TEMPLATE_PROTOCOL = '/drover/template/1'

/** How long a peer may take to open a channel. */
export const OPEN_TIMEOUT_MS = 10_000
/** How long one frame may take, sent or received: 1 MiB in 30 s is 280 kbit/s. */
export const FRAME_TIMEOUT_MS = 30_000
