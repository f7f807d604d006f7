import { channelPair } from '../support/channel-pair.ts'
import { channelSuite } from './channel-suite.ts'

channelSuite('the in-memory pair', {
  open: async () => {
    const [left, right] = channelPair({ peers: ['left', 'right'] })
    return { left, right, [Symbol.asyncDispose]: async () => undefined }
  },
  peers: () => ['left', 'right'],
  maxUnreadBytes: 2 * 1024 * 1024,
})
