/** CIDv1 (raw, sha2-256, base32) of a template's canonical manifest. */
export type TemplateId = string

/** Every template id: a sha2-256 of raw bytes. Ids become directory names, so nothing else is let in. */
export const TEMPLATE_ID_PATTERN = /^bafkrei[a-z2-7]{52}$/

/** What executes the guest. Device state of one can't be loaded by the other. */
export type Accelerator = 'kvm' | 'tcg'

/** Everything about a machine that its state depends on: both ends of a move must agree on all of it. */
export interface MachineSpec {
  /** Versioned machine type, such as `pc-q35-7.2`: the alias `q35` means another machine in each QEMU. */
  machineType: string
  accelerator: Accelerator
  /** Versioned CPU model, such as `qemu64-v1`. */
  cpuModel: string
  cpus: number
  memoryBytes: number
  /** Spare PCIe root ports (`rp0`...), for devices plugged in after cloning: none can be added to a template. */
  spareRootPorts: number
  kernelCommandLine: string
}

/** Files a template consists of beside its RAM. Kernel and initrd: a guest that reboots is loaded from them again. */
export const TEMPLATE_FILES = ['state', 'kernel', 'initrd', 'disk'] as const
export type TemplateFile = (typeof TEMPLATE_FILES)[number]

/** What a template is. Its bytes (`template.proto`, canonical) name it. */
export interface TemplateManifest {
  machine: MachineSpec
  /** One 32-byte hash per chunk, of RAM and then of each file in the order of TEMPLATE_FILES. */
  chunkHashes: Uint8Array[]
  /** Bytes of each file; 0: the template has none. Initrd and disk may be missing, state and kernel may not. */
  sizes: Record<TemplateFile, number>
}

/** A template as this node knows it. */
export interface TemplateRecord {
  id: TemplateId
  /** Local labels; a template may have several or none. */
  names: string[]
  manifest: TemplateManifest
  createdAtMs: number
}
