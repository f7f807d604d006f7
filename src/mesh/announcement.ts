import type { NodeCoordinate } from '../domain/coordinate.ts'
import type { CpuLevel, NodeFacts, NodeQemu, NodeVm } from '../domain/node.ts'
import { CPU_LEVELS } from '../domain/node.ts'
import {
  ANNOUNCEMENT_VERSION,
  type AnnouncedVm,
  type AnnouncementMessage,
  announcementCodec,
  MAX_ANNOUNCED_ADDRESSES,
  MAX_ANNOUNCED_MACHINE_TYPES,
  MAX_ANNOUNCED_TEMPLATES,
  MAX_ANNOUNCED_VMS,
  MAX_ANNOUNCEMENT_BYTES,
} from '../wire/announcement-message.ts'
import { templateDigest, templateIdOf } from '../wire/template-digest.ts'
import { buildTemplateFilter } from './template-filter.ts'
import { fromWireVmState, toWireVmState } from './vm-state.ts'

/** Key, type, signature and lengths of the envelope come to 170 bytes. */
const ENVELOPE_BYTES = 256
const Q35_PREFIX = 'pc-q35-'
const Q35_TYPE = /^pc-q35-\d{1,4}\.\d{1,4}$/

/** Where an announcement stands among those of its author. */
export interface AnnouncementOrder {
  /** The agent's start, ms since 1970; grows from start to start. */
  incarnation: number
  sequence: number
}

export interface AnnouncementContent extends AnnouncementOrder {
  /** 0: a farewell. */
  validMs: number
  name: string
  /** Multiaddrs, with or without the peer id. */
  addresses: readonly string[]
  facts: NodeFacts
}

/** What arrived: what was said, as far as it fitted. */
export interface Announcement extends AnnouncementContent {
  templatesTotal: number
  vmsTotal: number
  templatesListed: boolean
  vmsListed: boolean
  /** Stands for the templates where they aren't listed; empty otherwise. */
  templateFilter: Uint8Array
}

/** Whether `a` is of a later moment than `b`. */
export function isNewer(a: AnnouncementOrder, b: AnnouncementOrder): boolean {
  return a.incarnation > b.incarnation || (a.incarnation === b.incarnation && a.sequence > b.sequence)
}

/**
 * The whole state of a node in bytes. Templates that are too many go into a
 * filter, VMs that don't fit are left out from the end; the totals stand for them.
 *
 * @returns with its envelope at most MAX_ANNOUNCEMENT_BYTES
 */
export function packAnnouncement(content: AnnouncementContent): Uint8Array {
  const { facts } = content
  const digests = facts.templates.map(templateDigest)
  const listed = digests.length <= MAX_ANNOUNCED_TEMPLATES ? digests : []
  const places = new Map(
    listed.length === 0 ? [] : facts.templates.map((id, index) => [id, index + 1] as const),
  )
  const message: AnnouncementMessage = {
    version: ANNOUNCEMENT_VERSION,
    incarnation: content.incarnation,
    sequence: content.sequence,
    validMs: content.validMs,
    name: content.name,
    addresses: content.addresses
      .slice(0, MAX_ANNOUNCED_ADDRESSES)
      .map((address) => address.replace(/\/p2p\/[^/]+$/, '')),
    memory: facts.memory === null ? null : { ...facts.memory, limitBytes: facts.memory.limitBytes ?? 0 },
    loadPermille: Math.round(facts.load * 1000),
    cpus: facts.cpus,
    qemu: facts.qemu === null ? null : packQemu(facts.qemu),
    templates: listed,
    templateFilter: listed.length < digests.length ? buildTemplateFilter(digests) : new Uint8Array(),
    templatesTotal: digests.length,
    vms: facts.vms.slice(0, MAX_ANNOUNCED_VMS).map((vm) => packVm(vm, places)),
    vmsTotal: facts.vms.length,
    draining: facts.draining,
    coordinate: facts.coordinate === null ? null : packCoordinate(facts.coordinate),
  }
  let bytes = announcementCodec.encode(message)
  while (bytes.length > MAX_ANNOUNCEMENT_BYTES - ENVELOPE_BYTES) {
    message.vms.length = Math.floor((message.vms.length * 7) / 8)
    bytes = announcementCodec.encode(message)
  }
  return bytes
}

/** @throws WireError MESSAGE_MALFORMED */
export function unpackAnnouncement(bytes: Uint8Array): Announcement {
  const message = announcementCodec.decode(bytes)
  const { memory, templates, templatesTotal, templateFilter, vms, vmsTotal } = message
  const templateIds = templates.map(templateIdOf)
  return {
    incarnation: message.incarnation,
    sequence: message.sequence,
    validMs: message.validMs,
    name: message.name,
    addresses: message.addresses,
    facts: {
      memory: memory === null ? null : { ...memory, limitBytes: memory.limitBytes || null },
      load: message.loadPermille / 1000,
      cpus: message.cpus,
      qemu: message.qemu === null ? null : unpackQemu(message.qemu),
      templates: templateIds,
      vms: vms.map((vm) => unpackVm(vm, templateIds)),
      draining: message.draining,
      coordinate: message.coordinate === null ? null : unpackCoordinate(message.coordinate),
    },
    templatesTotal,
    vmsTotal,
    templatesListed: templateFilter.length === 0,
    vmsListed: vms.length === vmsTotal,
    templateFilter,
  }
}

function packQemu(qemu: NodeQemu): NonNullable<AnnouncementMessage['qemu']> {
  const { version, machineTypes, accelerator, cpuVendor, cpuLevel } = qemu
  return {
    version,
    // QEMU lists the newest first.
    q35Versions: machineTypes
      .filter((type) => Q35_TYPE.test(type))
      .slice(0, MAX_ANNOUNCED_MACHINE_TYPES)
      .map((type) => type.slice(Q35_PREFIX.length)),
    accelerator,
    cpuVendor,
    cpuLevel: CPU_LEVELS.indexOf(cpuLevel) + 1,
  }
}

function unpackQemu(qemu: NonNullable<AnnouncementMessage['qemu']>): NodeQemu {
  const { version, q35Versions, accelerator, cpuVendor, cpuLevel } = qemu
  return {
    version,
    machineTypes: q35Versions.map((type) => `${Q35_PREFIX}${type}`),
    accelerator,
    cpuVendor,
    cpuLevel: CPU_LEVELS[cpuLevel - 1] as CpuLevel,
  }
}

function packCoordinate({
  axesMs,
  heightMs,
  error,
}: NodeCoordinate): NonNullable<AnnouncementMessage['coordinate']> {
  return {
    axesUs: axesMs.map((ms) => Math.round(ms * 1000)),
    heightUs: Math.round(heightMs * 1000),
    errorPermille: Math.round(error * 1000),
  }
}

function unpackCoordinate({
  axesUs,
  heightUs,
  errorPermille,
}: NonNullable<AnnouncementMessage['coordinate']>): NodeCoordinate {
  return { axesMs: axesUs.map((us) => us / 1000), heightMs: heightUs / 1000, error: errorPermille / 1000 }
}

function packVm({ id, name, templateId, state, epoch }: NodeVm, places: Map<string, number>): AnnouncedVm {
  const template = places.get(templateId) ?? 0
  return {
    id: Buffer.from(id.replaceAll('-', ''), 'hex'),
    name,
    template,
    templateDigest: template === 0 ? templateDigest(templateId) : new Uint8Array(),
    state: toWireVmState(state),
    epoch,
  }
}

function unpackVm(vm: AnnouncedVm, templateIds: readonly string[]): NodeVm {
  const hex = Buffer.from(vm.id).toString('hex')
  return {
    id: hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
    name: vm.name,
    templateId: vm.template === 0 ? templateIdOf(vm.templateDigest) : templateIds[vm.template - 1]!,
    state: fromWireVmState(vm.state),
    epoch: vm.epoch,
  }
}
