import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { type Grant, type Heard, hear, sign } from '../../src/migration/grant.ts'
import {
  destinationHandover,
  doubtedHandover,
  type SourceEvent,
  sourceHandover,
} from '../../src/migration/handover.ts'
import { SignaturesByName } from '../support/signatures.ts'

const GRANT: Grant = {
  migrationId: randomUUID(),
  vmId: randomUUID(),
  epoch: 2,
  source: 'a',
  destination: 'b',
  place: randomUUID(),
  digest: 'ab'.repeat(32),
}
const granted: Heard = { word: 'GRANT', grant: GRANT, signer: 'a' }
const taken: Heard = { word: 'TAKEN', grant: GRANT, signer: 'b' }

test('the way of a move that succeeds', () => {
  const source = sourceHandover('b')
  const destination = destinationHandover('a')
  expect(source.on('stopped')).toBeNull()
  source.settleOn(GRANT)
  expect(source.on('finish-sent')).toBe('doubt')
  destination.settleOn(GRANT)
  expect(destination.on('loaded')).toBe('ready')
  expect(source.on('journaled')).toBeNull()
  expect(source.on('ready')).toBe('grant')
  expect(destination.on('grant', granted)).toBe('take')
  expect(destination.on('journaled')).toBe('run')
  expect(source.on('taken', taken)).toBe('leave')
  expect([source.state, destination.state]).toEqual(['left', 'owner'])
})

test.each<[SourceEvent[], SourceEvent]>([
  [[], 'ready'],
  [['stopped'], 'ready'],
  [['stopped', 'finish-sent'], 'ready'],
  [['stopped', 'finish-sent'], 'taken'],
  [['failed'], 'ready'],
  [['stopped', 'finish-sent', 'journaled', 'ready'], 'decided-source'],
])('after %j, %s is a violation, and changes nothing', (path, event) => {
  const source = sourceHandover('b')
  for (const step of path) source.on(step)
  const { state } = source
  expect(() => source.on(event)).toThrow(expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }))
  expect(source.state).toBe(state)
})

const other = { ...GRANT, place: randomUUID() }
test.each<[string, Heard | undefined]>([
  ['nothing', undefined],
  ['a statement without a signature', { ...taken, signer: null }],
  ['a statement of somebody else', { ...taken, signer: 'c' }],
  ...(Object.keys(GRANT) as (keyof Grant)[]).map((field): [string, Heard] => [
    `a statement with another ${field}`,
    { ...taken, grant: { ...GRANT, [field]: field === 'epoch' ? 3 : other.place } },
  ]),
])('in doubt, %s is no answer', (_, said) => {
  const source = doubtedHandover(GRANT)
  for (const event of ['taken', 'refused'] as const) {
    expect(() => source.on(event, said)).toThrow(expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }))
  }
  expect(source.state).toBe('in-doubt')
  expect(source.on('taken', taken)).toBe('leave')
})

test('what is signed is heard as it was said, from who said it', async () => {
  const names = new SignaturesByName()
  const signed = await sign(names.of('b'), 'TAKEN', GRANT)
  const heard = (peer: string) => hear(names.of('a'), signed, { peer, words: ['TAKEN'] })
  expect(await heard('b')).toEqual(taken)
  expect(await heard('c')).toEqual({ ...taken, signer: null })
  const changed = { ...signed, statement: Uint8Array.from(signed.statement) }
  // The last byte is of the place's text: another hexadecimal digit.
  const [last] = changed.statement.slice(-1)
  changed.statement[changed.statement.length - 1] = last === 0x30 ? 0x31 : 0x30
  const said = { peer: 'b', words: ['TAKEN'] as const }
  expect((await hear(names.of('a'), changed, said)).signer).toBeNull()
  await expect(hear(names.of('a'), signed, { peer: 'b', words: ['REFUSED'] })).rejects.toMatchObject({
    code: 'PROTOCOL_VIOLATION',
  })
})
