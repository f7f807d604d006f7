import type { NodeInventory, NodeVm } from '../domain/node.ts'
import type { Channel, ChannelHandler } from '../wire/channel.ts'
import {
  INVENTORY_VERSION,
  type InventoryFrame,
  inventoryFrameCodec,
  inventoryRequestCodec,
  MAX_INVENTORY_FRAME_BYTES,
  MAX_INVENTORY_REQUEST_BYTES,
  MAX_TEMPLATE_NAMES,
} from '../wire/directory-messages.ts'
import { WireError } from '../wire/errors.ts'
import { fromWireVmState, toWireVmState } from './vm-state.ts'

/** All that one node holds, `/drover/inventory/1`: a request, then frames until the channel's end. */
export const INVENTORY_PROTOCOL = '/drover/inventory/1'
export const INVENTORY_TIMEOUT_MS = 10_000
/** Of each kind; a node with more tells of these. */
export const MAX_INVENTORY_ITEMS = 16_384
/** An item with one name is 150 bytes, with 64 long ones 4.3 KB: the largest that fit a frame. */
const ITEMS_PER_FRAME = 14

/** Answers who asks what this node holds. */
export function serveInventory(inventory: () => NodeInventory): ChannelHandler {
  return async (channel, signal) => {
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(INVENTORY_TIMEOUT_MS)])
    const bytes = await channel.receive({ maxBytes: MAX_INVENTORY_REQUEST_BYTES, signal: bounded })
    if (bytes === null) throw new WireError('MESSAGE_MALFORMED', `${channel.peer} asked for nothing`)
    inventoryRequestCodec.decode(bytes)
    for (const frame of frames(inventory())) {
      await channel.send(inventoryFrameCodec.encode(frame), { signal: bounded })
    }
  }
}

/**
 * @param signal - bounds it; the caller's time-out is INVENTORY_TIMEOUT_MS
 * @throws WireError MESSAGE_MALFORMED, MESSAGE_TOO_LARGE; MeshError CHANNEL_RESET; the signal's reason
 */
export async function fetchInventory(channel: Channel, signal: AbortSignal): Promise<NodeInventory> {
  try {
    await channel.send(inventoryRequestCodec.encode({ version: INVENTORY_VERSION }), { signal })
    await channel.close()
    const templates: NodeInventory['templates'][number][] = []
    const vms: NodeVm[] = []
    for (;;) {
      const bytes = await channel.receive({ maxBytes: MAX_INVENTORY_FRAME_BYTES, signal })
      if (bytes === null) return { templates, vms }
      const frame = inventoryFrameCodec.decode(bytes)
      templates.push(...frame.templates)
      vms.push(...frame.vms.map((vm) => ({ ...vm, state: fromWireVmState(vm.state) })))
      if (Math.max(templates.length, vms.length) > MAX_INVENTORY_ITEMS) {
        throw new WireError('MESSAGE_TOO_LARGE', `the inventory of ${channel.peer} never ends`)
      }
    }
  } catch (error) {
    channel.abort(error instanceof Error ? error : new Error(String(error)))
    throw error
  }
}

function* frames({ templates, vms }: NodeInventory): Generator<InventoryFrame> {
  for (let at = 0; at < Math.min(templates.length, MAX_INVENTORY_ITEMS); at += ITEMS_PER_FRAME) {
    const some = templates.slice(at, Math.min(at + ITEMS_PER_FRAME, MAX_INVENTORY_ITEMS))
    yield {
      templates: some.map(({ names, ...rest }) => ({ ...rest, names: names.slice(0, MAX_TEMPLATE_NAMES) })),
      vms: [],
    }
  }
  for (let at = 0; at < Math.min(vms.length, MAX_INVENTORY_ITEMS); at += ITEMS_PER_FRAME) {
    const some = vms.slice(at, Math.min(at + ITEMS_PER_FRAME, MAX_INVENTORY_ITEMS))
    yield { templates: [], vms: some.map((vm) => ({ ...vm, state: toWireVmState(vm.state) })) }
  }
}
