/** Questions about Grants, through the handler that answers them. */
import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { MigrationJournal } from '../../src/migration/journal.ts'
import { serveVerdicts } from '../../src/migration/verdict.ts'
import { verdictRequestCodec } from '../../src/wire/migration-messages.ts'
import { channelPair } from '../support/channel-pair.ts'
import { temporaryDatabase } from '../support/database.ts'
import { SignaturesByName } from '../support/signatures.ts'

test('whoever asks while a disk refuses waits no longer than the channel lives', async () => {
  const db = await temporaryDatabase()
  const asked = Promise.withResolvers<void>()
  const handler = serveVerdicts({
    journal: new MigrationJournal(db),
    signatures: new SignaturesByName().of('here'),
    pending: () => ({
      settle: () => {
        asked.resolve()
        return new Promise(() => {})
      },
    }),
  })
  const [ours, theirs] = channelPair({ peers: ['source', 'here'] })
  const ended = new AbortController()
  const answering = handler(theirs, ended.signal)
  const name = { migrationId: randomUUID(), vmId: randomUUID(), place: randomUUID(), epoch: 2 }
  const grant = { ...name, source: 'source', destination: 'here', digest: Buffer.alloc(32) }
  await ours.send(verdictRequestCodec.encode({ grant }))
  await asked.promise
  ended.abort(new Error('the node stops'))
  await expect(answering).rejects.toThrow('the node stops')
})
