import { expect, test } from 'vitest'
import type { NicSpec, PortForward } from '../../src/domain/vm.ts'
import { assignNics, checkForwards, type NicRequest } from '../../src/vm/nics.ts'

const MAC = '52:54:00:00:00:01'
const tcp = (hostPort: number): PortForward => ({ protocol: 'tcp', hostPort, guestPort: 80 })
const udp = (hostPort: number): PortForward => ({ protocol: 'udp', hostPort, guestPort: 53 })
const taken: NicSpec[] = [{ kind: 'user', slot: 0, mac: MAC, forwards: [tcp(8080)] }]

test('NICs get slots in order and addresses of their own', () => {
  const nics = assignNics(
    [{ forwards: [] }, { mac: '52:54:00:AA:BB:CC', forwards: [tcp(8081)] }, { forwards: [] }],
    {
      taken,
      spareRootPorts: 4,
    },
  )
  expect(nics.map((nic) => nic.slot)).toEqual([0, 1, 2])
  expect(nics[1]).toEqual({ kind: 'user', slot: 1, mac: '52:54:00:aa:bb:cc', forwards: [tcp(8081)] })
  for (const nic of nics) expect(nic.mac).toMatch(/^52:54:00(:[0-9a-f]{2}){3}$/)
  expect(new Set([MAC, ...nics.map((nic) => nic.mac)]).size).toBe(4)
})

const refused: [why: string, requests: NicRequest[], code: string][] = [
  ['more NICs than slots', [{ forwards: [] }, { forwards: [] }, { forwards: [] }], 'NO_FREE_SLOT'],
  ["another VM's address", [{ mac: MAC, forwards: [] }], 'MAC_TAKEN'],
  [
    'one address twice',
    [
      { mac: '02:00:00:00:00:07', forwards: [] },
      { mac: '02:00:00:00:00:07', forwards: [] },
    ],
    'MAC_TAKEN',
  ],
  ['a multicast address', [{ mac: '01:00:5e:00:00:01', forwards: [] }], 'MAC_INVALID'],
  ['too short an address', [{ mac: '52:54:00', forwards: [] }], 'MAC_INVALID'],
  [
    'an address with an option behind it',
    [{ mac: `${MAC},romfile=/etc/passwd`, forwards: [] }],
    'MAC_INVALID',
  ],
  ["another VM's port", [{ forwards: [tcp(8080)] }], 'PORT_TAKEN'],
  ['one port twice', [{ forwards: [tcp(9000)] }, { forwards: [tcp(9000)] }], 'PORT_TAKEN'],
]

test.each(refused)('%s is refused', (_why, requests, code) => {
  expect(() => assignNics(requests, { taken, spareRootPorts: 2 })).toThrow(expect.objectContaining({ code }))
})

test('TCP and UDP have ports of their own', () => {
  expect(() => checkForwards([{ ...taken[0]!, forwards: [udp(8080)] }], taken)).not.toThrow()
})
