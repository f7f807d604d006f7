/** Moves to a node that doesn't have the template, and a paused guest, whose memory can be compared byte by byte. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { guestPages } from '../support/guest-pages.ts'
import { qemuPids } from '../support/node-state.ts'
import {
  expectCounting,
  inGuest,
  met,
  move,
  removeVm,
  runVm,
  showVm,
  TwoNodes,
  vmNames,
} from '../support/two-nodes.ts'

const MEMORY_BYTES = 128 * 1024 ** 2
const FILL_MIB = 48
const DRAFT_TIMEOUT_MS = 20_000
const CLEANUP_TIMEOUT_MS = 20_000
/** Loading the device state writes a few pages that the guest itself had not. */
const WRITTEN_BY_LOADING_PAGES = 16

let nodes: TwoNodes
beforeAll(async () => {
  nodes = await TwoNodes.start({ memory: '128M', fillMib: FILL_MIB, templateOnBoth: false })
})
afterAll(() => nodes?.[Symbol.asyncDispose]())

function templateDirectories(): Promise<string[]> {
  return readdir(join(nodes.destination.dataDir, 'templates'))
}

/** The destination has begun to write the template, and has not ended: what it has isn't named by an id yet. */
async function draftBegun(): Promise<void> {
  const deadlineMs = performance.now() + DRAFT_TIMEOUT_MS
  while (!(await templateDirectories()).some((name) => name.startsWith('fetch-'))) {
    if (performance.now() > deadlineMs) throw new Error('no template is on its way')
    await sleep(2)
  }
}

test('the source is killed while the template travels: the VM goes on after its restart, no half template there', async () => {
  const { source, destination } = nodes
  await runVm(source, 'web')
  await inGuest(source, 'web', 'workload counter start')
  const { pid } = await showVm(source, 'web')
  const moving = source.run(['migrate', 'web', '--to', 'edge-2', '--json'])
  await draftBegun()
  await source.stop('SIGKILL')
  expect(await moving).toMatchObject({ code: 1, stdout: expect.stringContaining('AGENT_GONE') })
  await expect.poll(() => qemuPids(destination), { timeout: CLEANUP_TIMEOUT_MS }).toEqual([])
  // What came is kept for the next move, and isn't a template.
  expect(await templateDirectories()).toEqual([`fetch-${nodes.templateId}`])
  expect(await destination.json('template', 'ls')).toEqual({ templates: [] })

  await source.start()
  expect(await showVm(source, 'web')).toMatchObject({ pid, state: 'running', epoch: 1 })
  await expectCounting(source, 'web', 1)
  await met(source, destination)
})

test('a destination without the template gets it whole, once', async () => {
  const { source, destination, templateId } = nodes
  const first = await move(source, 'web', destination)
  console.log(JSON.stringify({ durationsMs: first.durationsMs, bytes: first.bytes }))
  expect(first.bytes.template).toBeGreaterThan(1024 ** 2)
  expect(first.bytes.template).toBeLessThan(MEMORY_BYTES)
  expect(first.durationsMs.template).toBeGreaterThan(0)
  expect(first.bytes.wire).toBeGreaterThanOrEqual(first.bytes.template + first.bytes.pages)
  await expectCounting(destination, 'web', 1)

  const { templates } = await destination.json<{ templates: object[] }>('template', 'ls')
  expect(templates).toMatchObject([{ id: templateId, memoryBytes: MEMORY_BYTES, usedBy: ['web'] }])
  expect(await templateDirectories()).toEqual([templateId])
  expect(await destination.json('template', 'verify')).toMatchObject({ ok: true })

  await runVm(source, 'next')
  const second = await move(source, 'next', destination)
  expect(second.bytes.template).toBe(0)
  expect(second.durationsMs.template).toBe(0)
  expect(await vmNames(destination)).toEqual(['web', 'next'])
  await removeVm(destination, 'next')
  await removeVm(destination, 'web')
})

test('a VM that its user paused stays paused, with the same memory and the same pages of its own', async () => {
  const { source, destination } = nodes
  await runVm(source, 'paused')
  await inGuest(source, 'paused', 'workload data 4 a')
  await inGuest(source, 'paused', 'workload counter start')
  await source.json('vm', 'pause', 'paused')
  const before = await guestPages(source, 'paused')

  const report = await move(source, 'paused', destination)

  expect(await showVm(destination, 'paused')).toMatchObject({ state: 'paused', runState: 'paused' })
  const after = await guestPages(destination, 'paused')
  expect(after.sha256).toBe(before.sha256)
  expect(report.pages.private).toBe(before.private.size)
  expect(report.destination!.private).toBe(after.private.size)
  const notTheirs = [...after.private].filter((page) => !before.private.has(page))
  console.log(JSON.stringify({ before: before.private.size, after: after.private.size, notTheirs }))
  expect(notTheirs.length).toBeLessThanOrEqual(WRITTEN_BY_LOADING_PAGES)
  expect(after.private.size).toBeGreaterThanOrEqual(before.private.size - report.pages.omitted)

  await destination.json('vm', 'resume', 'paused')
  await expectCounting(destination, 'paused', 1)
  expect(await inGuest(destination, 'paused', 'workload check')).toBe('ok')
  await removeVm(destination, 'paused')
})
