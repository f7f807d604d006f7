import { announcementCodec } from '../../../src/wire/announcement-message.ts'
import {
  commandCodec,
  commandReplyCodec,
  consoleReplyCodec,
  consoleRequestCodec,
} from '../../../src/wire/command-messages.ts'
import {
  directoryFrameCodec,
  directoryRequestCodec,
  inventoryFrameCodec,
  inventoryRequestCodec,
} from '../../../src/wire/directory-messages.ts'
import { helloCodec, joinTokenCodec } from '../../../src/wire/mesh-messages.ts'
import {
  controlCodec,
  pagesCodec,
  pagesHelloCodec,
  signedCodec,
  statementCodec,
  verdictRequestCodec,
} from '../../../src/wire/migration-messages.ts'
import { probeReplyCodec, probeRequestCodec } from '../../../src/wire/probe-messages.ts'
import { templateReplyCodec, templateRequestCodec } from '../../../src/wire/template-messages.ts'
import type { Dice } from '../dice.ts'
import { hostileMessage } from '../generate.ts'
import { outcomeOfCall } from '../outcome.ts'
import { FuzzFailure, type FuzzTarget } from '../target.ts'

/** Every message that a peer can send, by its protobuf name. */
const CODECS = {
  'drover.mesh.Hello': helloCodec,
  'drover.mesh.JoinToken': joinTokenCodec,
  'drover.mesh.Announcement': announcementCodec,
  'drover.mesh.DirectoryRequest': directoryRequestCodec,
  'drover.mesh.DirectoryFrame': directoryFrameCodec,
  'drover.mesh.InventoryRequest': inventoryRequestCodec,
  'drover.mesh.InventoryFrame': inventoryFrameCodec,
  'drover.migration.Control': controlCodec,
  'drover.migration.PagesHello': pagesHelloCodec,
  'drover.migration.PagesFrame': pagesCodec,
  'drover.migration.Signed': signedCodec,
  'drover.migration.Statement': statementCodec,
  'drover.migration.VerdictRequest': verdictRequestCodec,
  'drover.template.TemplateRequest': templateRequestCodec,
  'drover.template.TemplateReply': templateReplyCodec,
  'drover.command.Command': commandCodec,
  'drover.command.CommandReply': commandReplyCodec,
  'drover.command.ConsoleRequest': consoleRequestCodec,
  'drover.command.ConsoleReply': consoleReplyCodec,
  'drover.placement.ProbeRequest': probeRequestCodec,
  'drover.placement.ProbeReply': probeReplyCodec,
} as const

const NAMES = Object.keys(CODECS) as (keyof typeof CODECS)[]

/** What a codec takes, it can say again, and takes once more. */
export async function startWireCodecs(): Promise<FuzzTarget> {
  return {
    name: 'wire-codecs',
    async attack(dice: Dice) {
      const name = dice.pick(NAMES)
      const bytes = hostileMessage(name, {}, dice)
      const codec = CODECS[name] as {
        decode(bytes: Uint8Array): unknown
        encode(message: unknown): Uint8Array
      }
      return outcomeOfCall(() => {
        const message = codec.decode(bytes)
        try {
          codec.decode(codec.encode(message))
        } catch (cause) {
          throw new FuzzFailure(`${name}: not taken a second time`, { cause })
        }
      }, name)
    },
    async checkHonest() {
      const hello = { version: 1, name: 'web', addresses: [], members: [], removals: [] }
      if (helloCodec.decode(helloCodec.encode(hello)).name !== 'web') throw new FuzzFailure('no hello')
    },
    async [Symbol.asyncDispose]() {},
  }
}
