import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import type { ConfigFile } from '../../src/agent/config.ts'
import type { MachineSpec } from '../../src/domain/template.ts'
import { loadIdentity, loadMeshKey } from '../../src/mesh/key-files.ts'
import { AgentUnderTest } from '../support/drover.ts'
import { testGuest } from '../support/guest.ts'
import { RUN_DIRECTORY } from './namespaces.ts'
import type { Door, Link, LinkInit } from './network.ts'
import type { TemplateFiles } from './stock.ts'

/** What is measured, and over which link. */
export interface SettingInit {
  makeLink: (init: LinkInit) => Promise<Link>
  /** Guest memory, as `--memory` takes it. */
  memory: string
  /** How much of it the template has in use beside the kernel. */
  fillMib: number
}

/** Two agents on the two ends of a link, with one template on both. */
export interface Pair {
  source: AgentUnderTest
  destination: AgentUnderTest
  link: Link
  templateId: string
}

/** Everything a benchmark runs on, taken down when it is disposed. */
export interface Setting extends AsyncDisposable {
  pair: Pair
  template: TemplateFiles
  dir: string
}

const MEET_TIMEOUT_MS = 60_000
const MEET_RETRY_MS = 200

/** Two agents on a link, a template made by a real boot on one and pulled by the other. */
export async function makeSetting({ makeLink, memory, fillMib }: SettingInit): Promise<Setting> {
  const guest = await testGuest()
  await using cleanup = new AsyncDisposableStack()
  const dir = RUN_DIRECTORY
  await mkdir(dir, { recursive: true })
  cleanup.defer(() => rm(dir, { recursive: true, force: true }))
  const link = cleanup.use(await makeLink({ dir, qemu: guest.qemu }))
  const [source, destination] = await startAgents({ dir, link, qemu: guest.qemu }, cleanup)

  const append = `${guest.append} drover.fill=${fillMib}`
  const created = await source.json<{ id: string }>(
    ...['template', 'create', 'base', '--kernel', guest.kernel, '--initrd', guest.initrd, '--append', append],
    ...['--memory', memory, '--ready', 'drover-guest ready'],
  )
  await destination.json('template', 'pull', created.id, '--from', 'source')
  const machine = await source.json<Omit<MachineSpec, 'kernelCommandLine'> & { kernelCommandLine: string }>(
    ...['template', 'show', created.id],
  )
  const sealed = join(source.dataDir, 'templates', created.id)
  const template = {
    machine: { ...machine, kernelCommandLine: append },
    ram: templateRam(source, created.id),
    state: join(sealed, 'state'),
    kernel: join(sealed, 'kernel'),
    initrd: join(sealed, 'initrd'),
  }
  const owned = cleanup.move()
  return {
    pair: { source, destination, link, templateId: created.id },
    template,
    dir,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** A template's RAM file on a node. */
export function templateRam(agent: AgentUnderTest, templateId: string): string {
  return join(agent.dataDir, 'templates', templateId, 'ram')
}

/**
 * Both agents of one mesh. They are in their hosts' namespaces, and so is the
 * QEMU that they start: stock QEMU alone is started by a way into them.
 * Identities are made before the first start: where there is no way between the
 * nodes but through doors, a join token, which holds the address that an agent
 * listens at, leads nowhere.
 */
async function startAgents(
  { dir, link, qemu }: { dir: string; link: Link; qemu: string },
  cleanup: AsyncDisposableStack,
): Promise<[source: AgentUnderTest, destination: AgentUnderTest]> {
  const ends = [
    { name: 'source', host: link.source, other: link.destination },
    { name: 'destination', host: link.destination, other: link.source },
  ]
  const dataDirs = ends.map(({ name }) => join(dir, name))
  const meshKey = await loadMeshKey(dataDirs[0]!, null)
  await loadMeshKey(dataDirs[1]!, meshKey)
  const peerIds = await Promise.all(
    dataDirs.map(async (dataDir) => peerIdFromPrivateKey(await loadIdentity(dataDir)).toString()),
  )
  const agents: AgentUnderTest[] = []
  for (const [i, { name, host, other }] of ends.entries()) {
    const bootstrap = [`${multiaddr(other.door)}/p2p/${peerIds[1 - i]}`]
    const path = join(dir, `${name}.json`)
    await writeFile(path, JSON.stringify({ bootstrap, mdns: false, qemu, accel: 'tcg' } satisfies ConfigFile))
    const flags = ['--config', path, '--listen', multiaddr(host.agent)]
    agents.push(
      cleanup.use(await AgentUnderTest.start({ name, prefix: host.prefix, dataDir: dataDirs[i]!, flags })),
    )
  }
  const [source, destination] = agents as [AgentUnderTest, AgentUnderTest]
  await meet(source, destination)
  return [source, destination]
}

function multiaddr({ address, port }: Door): string {
  return `/ip4/${address}/tcp/${port}`
}

async function meet(one: AgentUnderTest, other: AgentUnderTest): Promise<void> {
  const deadlineMs = performance.now() + MEET_TIMEOUT_MS
  while ((await one.run(['peer', 'ping', other.name])).code !== 0) {
    if (performance.now() > deadlineMs)
      throw new Error(`${one.name} does not reach ${other.name}\n${one.log}`)
    await sleep(MEET_RETRY_MS)
  }
}
