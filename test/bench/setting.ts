import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { MachineSpec } from '../../src/domain/template.ts'
import { AgentUnderTest } from '../support/drover.ts'
import { testGuest } from '../support/guest.ts'
import type { Pair } from './drover-move.ts'
import type { Link } from './network.ts'
import type { TemplateFiles } from './stock.ts'

/** Guest memory of every benchmark, and how much of it the template has in use beside the kernel. */
const MEMORY = '512M'
const FILL_MIB = 210

/** Everything a benchmark runs on, taken down when it is disposed. */
export interface Setting extends AsyncDisposable {
  pair: Pair
  template: TemplateFiles
  dir: string
}

/** Two agents on a link, a template made by a real boot on one and pulled by the other. */
export async function makeSetting(
  makeLink: (at: { dir: string; qemu: string }) => Promise<Link>,
): Promise<Setting> {
  const guest = await testGuest()
  await using cleanup = new AsyncDisposableStack()
  const dir = await mkdtemp(join(tmpdir(), 'drover-bench-'))
  cleanup.defer(() => rm(dir, { recursive: true, force: true }))
  const link = cleanup.use(await makeLink({ dir, qemu: guest.qemu }))
  const agent = async (name: string, host: Link['source'], flags: string[]) => {
    const listen = ['--listen', `/ip4/${host.address}/tcp/0`]
    return cleanup.use(
      await AgentUnderTest.start({
        name,
        prefix: host.prefix,
        flags: [...listen, '--accel', 'tcg', '--qemu', guest.qemu, ...flags],
      }),
    )
  }
  const source = await agent('source', link.source, [])
  const { token } = await source.json<{ token: string }>('mesh', 'token')
  const destination = await agent('destination', link.destination, ['--join', token])

  const append = `${guest.append} drover.fill=${FILL_MIB}`
  const created = await source.json<{ id: string }>(
    ...['template', 'create', 'base', '--kernel', guest.kernel, '--initrd', guest.initrd, '--append', append],
    ...['--memory', MEMORY, '--ready', 'drover-guest ready'],
  )
  await destination.json('template', 'pull', created.id, '--from', 'source')
  const machine = await source.json<Omit<MachineSpec, 'kernelCommandLine'> & { kernelCommandLine: string }>(
    ...['template', 'show', created.id],
  )
  const files = (agentDir: string) => join(agentDir, 'templates', created.id)
  const pair = {
    source,
    destination,
    link,
    templateId: created.id,
    destinationRam: join(files(destination.dataDir), 'ram'),
  }
  const sealed = files(source.dataDir)
  const template = {
    machine: { ...machine, kernelCommandLine: append },
    ram: join(sealed, 'ram'),
    state: join(sealed, 'state'),
    kernel: join(sealed, 'kernel'),
    initrd: join(sealed, 'initrd'),
  }
  const owned = cleanup.move()
  return { pair, template, dir, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}
