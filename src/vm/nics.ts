import { randomBytes } from 'node:crypto'
import type { NicSpec, PortForward } from '../domain/vm.ts'
import { VmError } from './errors.ts'

/** A NIC as its user asks for it. */
export interface NicRequest {
  /** Six hex pairs with colons; chosen by drover when absent. */
  mac?: string
  forwards: readonly PortForward[]
}

/** Prefix that QEMU's own default addresses have: locally administered, unicast. */
const MAC_PREFIX = '52:54:00'
const MAC_PATTERN = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/

/**
 * Gives each requested NIC its root port, in order, and an address that no
 * other NIC of this node has.
 *
 * @param taken - NICs of this node's other VMs
 * @throws VmError NO_FREE_SLOT, MAC_INVALID, MAC_TAKEN, PORT_TAKEN
 */
export function assignNics(
  requests: readonly NicRequest[],
  { taken, spareRootPorts }: { taken: readonly NicSpec[]; spareRootPorts: number },
): NicSpec[] {
  if (requests.length > spareRootPorts) {
    throw new VmError(
      'NO_FREE_SLOT',
      `${requests.length} NICs asked for, and the template's machine has ${spareRootPorts} spare slots`,
      { details: { nics: requests.length, spareRootPorts } },
    )
  }
  const macs = new Set(taken.map((nic) => nic.mac))
  const nics = requests.map((request, slot): NicSpec => {
    const mac = request.mac === undefined ? randomMac(macs) : checkedMac(request.mac, macs)
    macs.add(mac)
    return { kind: 'user', slot, mac, forwards: request.forwards }
  })
  checkForwards(nics, taken)
  return nics
}

/**
 * A port of the node leads to one guest.
 *
 * @throws VmError PORT_TAKEN when two of the NICs, or one of them and one of `taken`, forward the same port
 */
export function checkForwards(nics: readonly NicSpec[], taken: readonly NicSpec[]): void {
  const ports = new Set(taken.flatMap(hostPorts))
  for (const port of nics.flatMap(hostPorts)) {
    if (ports.has(port)) {
      throw new VmError('PORT_TAKEN', `port ${port} of this node leads to a VM already`, {
        details: { port },
      })
    }
    ports.add(port)
  }
}

function hostPorts(nic: NicSpec): string[] {
  return nic.forwards.map((forward) => `${forward.protocol}/${forward.hostPort}`)
}

function checkedMac(text: string, macs: ReadonlySet<string>): string {
  const mac = text.toLowerCase()
  if (!MAC_PATTERN.test(mac)) {
    throw new VmError(
      'MAC_INVALID',
      `'${text}' is no MAC address of one interface, such as ${MAC_PREFIX}:12:34:56`,
    )
  }
  if (macs.has(mac)) {
    throw new VmError('MAC_TAKEN', `another NIC of this node has the address ${mac}`, { details: { mac } })
  }
  return mac
}

function randomMac(macs: ReadonlySet<string>): string {
  for (;;) {
    const mac = `${MAC_PREFIX}:${randomBytes(3).toString('hex').match(/../g)!.join(':')}`
    if (!macs.has(mac)) return mac
  }
}
