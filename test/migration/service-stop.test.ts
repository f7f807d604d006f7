/** What a service that stops still does for those who ask it. */
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Policy } from '../../src/domain/policy.ts'
import { type MigrationComponents, MigrationService } from '../../src/migration/index.ts'
import { VmService } from '../../src/vm/index.ts'
import { SignaturesByName } from '../support/signatures.ts'
import { TestNode } from '../template/fixture.ts'

let node: TestNode

beforeEach(async () => {
  node = await TestNode.start()
})
afterEach(() => node[Symbol.asyncDispose]())

test('no move begins once the agent stops: nobody would wait for it', async () => {
  const vms = new VmService(
    { db: node.db, templates: node.store, binary: null, onEvent: () => {} },
    { dataDir: node.dir, runDir: join(node.dir, 'run'), memoryLimitBytes: null },
  )
  const components = {
    db: node.db,
    vms,
    templates: node.store,
    open: () => Promise.reject(new Error('no network')),
    peerId: 'here',
    signatures: new SignaturesByName().of('here'),
    // Looked at by moves alone, and none begins.
    binary: null as unknown as MigrationComponents['binary'],
    providersOf: () => [],
    policy: new Policy({}, { node: 'here' }),
    onEvent: () => {},
  }
  const migrations = new MigrationService(components, { dataDir: node.dir, keepLimitBytes: 0 })
  await migrations.start()
  await migrations.stop()
  const request = {
    vms: ['w'],
    to: 'there',
    maxBandwidthBytesPerSecond: null,
    maxBlackoutMs: null,
    parallel: 1,
  }
  expect(() => migrations.migrate(request)).toThrow(expect.objectContaining({ code: 'MIGRATION_CANCELLED' }))
})
