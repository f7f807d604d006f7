import type { NicSpec } from '../domain/vm.ts'
import { QemuError } from './errors.ts'

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/

/** QEMU's own NAT. Forwarded ports listen on every address of the node, as its clients are elsewhere. */
export function nicNetdev(nic: NicSpec): { type: 'user'; id: string; hostfwd: { str: string }[] } {
  if (nic.kind !== 'user') {
    throw new QemuError('LAUNCH_INVALID', `no such kind of NIC: ${nic.kind}`, { details: { kind: nic.kind } })
  }
  return {
    type: nic.kind,
    id: `net${nic.slot}`,
    hostfwd: nic.forwards.map(({ protocol, hostPort, guestPort }) => {
      if (!['tcp', 'udp'].includes(protocol) || !isPort(hostPort) || !isPort(guestPort)) {
        const forward = `${protocol} ${hostPort} to ${guestPort}`
        throw new QemuError('LAUNCH_INVALID', `not a port forward: ${forward}`, { details: { forward } })
      }
      return { str: `${protocol}::${hostPort}-:${guestPort}` }
    }),
  }
}

/**
 * The NIC in its root port. Without its boot ROM, which a guest with a kernel
 * of its own never runs: the ROM would be one more RAM block to move.
 */
export function nicDevice(nic: NicSpec): {
  driver: string
  id: string
  bus: string
  [property: string]: string
} {
  if (!MAC.test(nic.mac)) {
    throw new QemuError('LAUNCH_INVALID', `not a MAC address: ${nic.mac}`, { details: { mac: nic.mac } })
  }
  return {
    driver: 'virtio-net-pci',
    id: `nic${nic.slot}`,
    netdev: `net${nic.slot}`,
    bus: `rp${nic.slot}`,
    mac: nic.mac,
    romfile: '',
  }
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port > 0 && port < 65536
}
