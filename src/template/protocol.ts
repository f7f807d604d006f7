/** One template, handed from one agent to another: `template.proto`. */
export const TEMPLATE_PROTOCOL = '/drover/template/2'

/** How long a peer may take to open a channel. */
export const OPEN_TIMEOUT_MS = 10_000
/** How long one frame may take, sent or received: 1 MiB in 30 s is 280 kbit/s. */
export const FRAME_TIMEOUT_MS = 30_000
/** How long a channel may stay open without a request: the fetcher may be busy with other providers. */
export const IDLE_TIMEOUT_MS = 300_000
