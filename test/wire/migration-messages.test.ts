import { randomBytes, randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { MAX_HERD_VMS } from '../../src/domain/migration.ts'
import {
  type ControlMessage,
  controlCodec,
  MAX_CONTROL_BYTES,
  pagesCodec,
  statementCodec,
} from '../../src/wire/migration-messages.ts'
import { messageType } from '../../src/wire/schema.ts'

const PEER = '12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf'

const offer: Extract<ControlMessage, { kind: 'offer' }> = {
  kind: 'offer',
  migrationId: randomUUID(),
  vm: {
    id: randomUUID(),
    name: 'web-1',
    templateId: `bafkrei${'a'.repeat(52)}`,
    generationId: randomUUID(),
    nics: [
      {
        kind: 'user',
        slot: 0,
        mac: '52:54:00:12:34:56',
        forwards: [{ protocol: 'tcp', hostPort: 8080, guestPort: 80 }],
      },
    ],
    hasDisk: false,
    clients: [
      { host: '2001:db8::7', port: 443, weight: 1000 },
      { host: 'shop.example', port: 1, weight: 1 },
    ],
    auto: true,
  },
  epoch: 2 ** 40,
  privatePages: 88,
  hashSeed: 0xffffffff,
  qemuVersion: '7.2.22',
  paused: false,
  baseline: Buffer.alloc(32),
  maxBytesPerSecond: 5_000_000,
  coolDown: { remainingMs: 0, lengthMs: 60_000, previousNode: PEER, sinceMoveMs: 2 ** 40 },
  machine: {
    machineType: 'pc-q35-7.2',
    accelerator: 'tcg',
    cpuModel: 'qemu64-v1',
    cpus: 1,
    memoryBytes: 2 ** 33,
    spareRootPorts: 4,
    kernelCommandLine: 'console=ttyS0 quiet',
  },
}

test.each<ControlMessage>([
  offer,
  {
    kind: 'accept',
    templateMissing: true,
    baselineHeld: true,
    siblings: Buffer.from([1, 2]),
    place: randomUUID(),
  },
  { kind: 'refuse', code: 'NOT_ENOUGH_MEMORY', message: 'no', detailsJson: '{}' },
  { kind: 'prepared', templateBytes: 2 ** 33, baselineLost: true },
  { kind: 'ready', digest: randomBytes(32) },
  { kind: 'running', statement: randomBytes(200), signature: randomBytes(64) },
  { kind: 'abort', code: 'INTERNAL', message: '' },
  {
    kind: 'herdOffer',
    herdId: randomUUID(),
    vms: Array.from({ length: MAX_HERD_VMS }, () => ({
      vmId: randomUUID(),
      templateId: offer.vm.templateId,
      privatePages: 88,
      machine: { ...offer.machine, kernelCommandLine: 'x'.repeat(4096) },
    })),
  },
  { kind: 'herdAccept' },
])('$kind comes back as it was', (message) => {
  const back = controlCodec.decode(controlCodec.encode(message))
  expect(JSON.stringify(back, sorted)).toBe(JSON.stringify(message, sorted))
})

/** Objects with sorted keys: the order of fields is the encoder's. */
function sorted(_: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)))
}

const control = messageType('drover.migration.Control')
const encode = (body: object) => control.encode(control.fromObject(body)).finish()

test.each<[string, Uint8Array]>([
  ['nothing', new Uint8Array(0)],
  ['noise', randomBytes(64)],
  ['a truncated offer', controlCodec.encode(offer).subarray(0, 60)],
  ['an unknown body', Buffer.from([0xfa, 0x01, 0x00])],
  ['an id in capitals', encode({ offer: { ...offer, migrationId: randomUUID().toUpperCase() } })],
  ['an id that is no UUID', encode({ offer: { ...offer, migrationId: '../../etc' } })],
  ['a name that is a path', encode({ offer: { ...offer, vm: { ...offer.vm, name: '../x' } } })],
  [
    'a template id that is a path',
    encode({ offer: { ...offer, vm: { ...offer.vm, templateId: '../../../etc/passwd' } } }),
  ],
  [
    'a MAC with a comma',
    encode({
      offer: { ...offer, vm: { ...offer.vm, nics: [{ ...offer.vm.nics[0], mac: '52:54:00:12:34:56,x=y' }] } },
    }),
  ],
  [
    'a machine type with an option',
    encode({
      offer: { ...offer, machine: { ...offer.machine, machineType: 'pc-q35-7.2,dump-guest-core=on' } },
    }),
  ],
  ...[
    { host: 'a b', port: 1, weight: 1 },
    { host: 'a'.repeat(254), port: 1, weight: 1 },
    { host: 'fe80::1%eth0', port: 1, weight: 1 },
    { host: '192.0.2.7', port: 0, weight: 1 },
    { host: '192.0.2.7', port: 65_536, weight: 1 },
    { host: '192.0.2.7', port: 1, weight: 0 },
    { host: '192.0.2.7', port: 1, weight: 1001 },
  ].map((client): [string, Uint8Array] => [
    `a client of ${JSON.stringify(client)}`,
    encode({ offer: { ...offer, vm: { ...offer.vm, clients: [client] } } }),
  ]),
  [
    '17 clients',
    encode({ offer: { ...offer, vm: { ...offer.vm, clients: Array(17).fill(offer.vm.clients[0]) } } }),
  ],
  [
    'a cool-down from a node that is none',
    encode({ offer: { ...offer, coolDown: { ...offer.coolDown, previousNode: '../x' } } }),
  ],
  [
    'a cool-down without end',
    encode({ offer: { ...offer, coolDown: { ...offer.coolDown, remainingMs: 2 ** 53 } } }),
  ],
  ['an offer without a VM', encode({ offer: { ...offer, vm: undefined } })],
  ['a short digest', encode({ ready: { digest: randomBytes(31) } })],
  ['an error code in lower case', encode({ abort: { code: 'rm -rf', message: '' } })],
])('%s is malformed', (_, bytes) => {
  expect(() => controlCodec.decode(bytes)).toThrow(expect.objectContaining({ code: 'MESSAGE_MALFORMED' }))
})

test('an offer of an earlier version has no clients, and does not let its VM be moved', () => {
  const { clients: _clients, auto: _auto, ...vm } = offer.vm
  const decoded = controlCodec.decode(encode({ offer: { ...offer, vm, coolDown: null } }))
  expect(decoded).toMatchObject({ coolDown: null, vm: { ...vm, clients: [], auto: false } })
})

test('a page batch with more indices than a batch holds is malformed', () => {
  const group = {
    encoding: 'ENCODING_ZERO' as const,
    indexDeltas: Array.from({ length: 257 }, () => 1),
    data: new Uint8Array(0),
  }
  const bytes = pagesCodec.encode({ kind: 'batch', round: 1, groups: [group] })
  expect(() => pagesCodec.decode(bytes)).toThrow(expect.objectContaining({ code: 'MESSAGE_MALFORMED' }))
})

test('an encoding of zero is malformed: it is nobody’s choice', () => {
  const type = messageType('drover.migration.PagesFrame')
  const bytes = type.encode(type.fromObject({ batch: { round: 1, groups: [{ indexDeltas: [1] }] } })).finish()
  expect(() => pagesCodec.decode(bytes)).toThrow(expect.objectContaining({ code: 'MESSAGE_MALFORMED' }))
})

test('the largest herd is a message that is read', () => {
  const machine = { ...offer.machine, kernelCommandLine: 'x'.repeat(4096) }
  const vm = () => ({
    vmId: randomUUID(),
    templateId: offer.vm.templateId,
    privatePages: 2 ** 32 - 1,
    machine,
  })
  const vms = Array.from({ length: MAX_HERD_VMS }, vm)
  const bytes = controlCodec.encode({ kind: 'herdOffer', herdId: randomUUID(), vms })
  expect(bytes.length).toBeLessThan(MAX_CONTROL_BYTES)
})

test('what a peer says to people moves no cursor', () => {
  const bytes = controlCodec.encode({ kind: 'abort', code: 'INTERNAL', message: 'no\u001b[2J\nway' })
  expect(controlCodec.decode(bytes)).toMatchObject({ message: 'no [2J way' })
})

const grant = {
  migrationId: randomUUID(),
  vmId: randomUUID(),
  epoch: 2,
  source: 'a',
  destination: 'b',
  digest: randomBytes(32),
  place: randomUUID(),
}

test.each(['GRANT', 'TAKEN', 'REFUSED'] as const)('a statement that says %s comes back as it was', (word) => {
  expect(statementCodec.decode(statementCodec.encode({ word, grant }))).toEqual({ word, grant })
})

test.each([
  ['a word that says nothing', { word: 'WORD_INVALID', grant }],
  ['no Grant', { word: 'GRANT' }],
  ['a peer with a blank in its name', { word: 'GRANT', grant: { ...grant, source: 'a b' } }],
  ['a short digest', { word: 'GRANT', grant: { ...grant, digest: randomBytes(31) } }],
])('a statement with %s is malformed', (_, statement) => {
  const bytes = statementCodec.encode(statement as Parameters<typeof statementCodec.encode>[0])
  expect(() => statementCodec.decode(bytes)).toThrow(expect.objectContaining({ code: 'MESSAGE_MALFORMED' }))
})
