/**
 * The QMP commands and events that drover uses, as QEMU 7.2 to 11.0 define
 * them (qapi/*.json in QEMU's sources).
 */

export interface QemuVersion {
  major: number
  minor: number
  micro: number
}

export type MigrationCapability = 'events' | 'x-ignore-shared' | 'pause-before-switchover'

export interface QmpCommands {
  cont: { arguments: undefined; returns: unknown }
  stop: { arguments: undefined; returns: unknown }
  quit: { arguments: undefined; returns: unknown }
  system_reset: { arguments: undefined; returns: unknown }
  system_powerdown: { arguments: undefined; returns: unknown }
  'query-status': { arguments: undefined; returns: { status: string; running: boolean } }
  'query-vm-generation-id': { arguments: undefined; returns: { guid: string } }
  'query-migrate': {
    arguments: undefined
    returns: { status?: string; 'error-desc'?: string; 'blocked-reasons'?: string[] }
  }
  /** Of `sample-pages` in each GiB it compares hashes, `calc-time` seconds apart. */
  'calc-dirty-rate': { arguments: { 'calc-time': number; 'sample-pages': number }; returns: unknown }
  /** `dirty-rate`: MiB/s; not there unless the status is `measured`. */
  'query-dirty-rate': {
    arguments: undefined
    returns: { status: 'unstarted' | 'measuring' | 'measured'; 'dirty-rate'?: number }
  }
  'query-named-block-nodes': {
    arguments: { flat: boolean }
    /** `active`: since 10.0. */
    returns: { 'node-name'?: string; drv: string; active?: boolean }[]
  }
  'x-query-ramblock': { arguments: undefined; returns: { 'human-readable-text': string } }
  'qom-list': { arguments: { path: string }; returns: { name: string; type: string }[] }
  'migrate-set-capabilities': {
    arguments: { capabilities: { capability: MigrationCapability; state: boolean }[] }
    returns: unknown
  }
  migrate: { arguments: { uri: string }; returns: unknown }
  migrate_cancel: { arguments: undefined; returns: unknown }
  /** Goes on from `pre-switchover`, where the guest is stopped. */
  'migrate-continue': { arguments: { state: 'pre-switchover' }; returns: unknown }
  /** Bytes a second, 0: no limit; milliseconds. */
  'migrate-set-parameters': {
    /** `avail-switchover-bandwidth`: since 8.2. */
    arguments: {
      'max-bandwidth': number
      'downtime-limit': number
      'avail-switchover-bandwidth'?: number
    }
    returns: unknown
  }
  /** `exit-on-error`: since 9.1. */
  'migrate-incoming': { arguments: { uri: string; 'exit-on-error'?: boolean }; returns: unknown }
  'xen-save-devices-state': { arguments: { filename: string; live: boolean }; returns: unknown }
  netdev_add: {
    arguments: { type: 'user'; id: string; hostfwd: { str: string }[] }
    returns: unknown
  }
  netdev_del: { arguments: { id: string }; returns: unknown }
  device_add: {
    arguments: { driver: string; id: string; bus: string; [property: string]: unknown }
    returns: unknown
  }
}

export type QmpCommand = keyof QmpCommands

/** An asynchronous message of QEMU. */
export interface QmpEvent {
  event: string
  data: Record<string, unknown>
  /** Since 1970, by the host's clock. */
  timestamp: { seconds: number; microseconds: number }
}
