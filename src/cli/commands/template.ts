import { resolve } from 'node:path'
import { type Command, Option } from 'commander'
import type {
  CreateTemplateRequest,
  GcReply,
  GcTemplatesRequest,
  MeshTemplateReply,
  MeshTemplatesReply,
  PullTemplateReply,
  PullTemplateRequest,
  SealVmReply,
  SealVmRequest,
  TemplateProgress,
  TemplateReply,
  VerifyReply,
  VerifyTemplatesRequest,
} from '../../agent/api-schema.ts'
import { PAGE_BYTES } from '../../domain/page.ts'
import { apiPath } from '../client.ts'
import { CliError } from '../errors.ts'
import { EXIT_CODES } from '../exit-code.ts'
import { examples } from '../help.ts'
import { count, pattern, positive, size } from '../options.ts'
import type { Output } from '../output.ts'
import type { Action } from '../session.ts'
import { renderFacts, renderTable } from '../table.ts'
import { formatBytes, formatMs, formatTime, shortId } from '../units.ts'
import { noteUnanswered } from './mesh.ts'

/** A distribution's kernel under TCG on a small node is ready within this. */
const DEFAULT_READY_TIMEOUT_S = 300

/** All that a booted template is described by: a VM brings its own. */
const BOOT_OPTIONS = [
  'kernel',
  'initrd',
  'append',
  'disk',
  'memory',
  'cpus',
  'machine',
  'ready',
  'readyTimeout',
] satisfies (keyof CreateOptions)[]

interface CreateOptions {
  fromVm?: string
  kernel?: string
  initrd?: string
  append: string
  disk?: string
  memory?: number
  cpus: number
  machine?: string
  ready?: string
  readyTimeout: number
}

export function registerTemplate(program: Command, action: Action): void {
  const template = program
    .command('template')
    .helpCommand(false)
    .description('Sealed VMs that clones start from. T is a name, an id, or the start of an id.')
  registerCreate(template, action)

  template
    .command('ls')
    .description('List the templates of this node, or with --mesh those of all nodes.')
    .addHelpText(
      'before',
      examples(['drover template ls', ''], ['drover template ls --mesh', 'which nodes hold which']),
    )
    .option('--mesh', 'one row per template, with the nodes that hold it')
    .action(
      action(async ({ client, out }, { mesh = false }: { mesh?: boolean }) => {
        if (mesh) {
          const found = await client.request<MeshTemplatesReply>('GET', '/mesh/templates')
          out.result({ templates: found.templates }, renderMesh)
          noteUnanswered(out, found.unanswered)
          return
        }
        out.result(await client.request<{ templates: TemplateReply[] }>('GET', '/templates'), renderList)
      }),
    )

  template
    .command('show')
    .argument('<T>')
    .description('Show one template.')
    .addHelpText('before', examples(['drover template show web', '']))
    .action(
      action(async ({ client, out }, _options, ref: string) => {
        out.result(await client.request<TemplateReply>('GET', apiPath`/templates/${ref}`), renderOne)
      }),
    )

  template
    .command('pull')
    .argument('<T>', 'the whole id, as other nodes know no names of this one')
    .description('Bring a template to this node; every byte is checked against its id.')
    .addHelpText('before', examples(['drover template pull bafkrei... --from edge-1 --name web', '']))
    .option('--from <peer>', 'the one node to ask (default: all that have it, each for a share)')
    .option('--name <name>', 'what to call it here')
    .action(
      action(async ({ client, out }, { from, name }: { from?: string; name?: string }, ref: string) => {
        const body: PullTemplateRequest = { from: from ?? null, name: name ?? null }
        const request = { method: 'POST', path: apiPath`/templates/${ref}/pull`, body } as const
        out.result(
          await client.operation<TemplateProgress, PullTemplateReply>(request, showProgress(out)),
          (pulled) =>
            pulled.from.length === 0
              ? `${pulled.id} is here already`
              : `${pulled.id}  ${formatBytes(pulled.bytesReceived)} received from ${pulled.from.length === 1 ? 'one node' : `${pulled.from.length} nodes`}`,
        )
      }),
    )

  template
    .command('verify')
    .argument('[T]', 'default: all of them')
    .description(
      'Read everything again and compare it with the hashes; what is damaged is repaired page by page from nodes that have ' +
        'it. Exit code 1 when something stays damaged.',
    )
    .addHelpText(
      'before',
      examples(['drover template verify', ''], ['drover template verify web --no-repair', 'look only']),
    )
    .option('--no-repair', 'say what is damaged, and change nothing')
    .action(
      action(async ({ client, out }, { repair }: { repair: boolean }, ref: string | undefined) => {
        const body: VerifyTemplatesRequest = { template: ref ?? null, repair }
        const request = { method: 'POST', path: '/templates/verify', body } as const
        const verified = await client.operation<TemplateProgress, VerifyReply>(request, showProgress(out))
        out.result(verified, renderVerified)
        return verified.ok ? 0 : EXIT_CODES.failed
      }),
    )

  template
    .command('gc')
    .description(
      'Remove what interrupted fetches left, and as many templates as it takes for the others to fit the limit: those ' +
        'that other nodes have first, the longest unused first, never one that a VM needs.',
    )
    .addHelpText(
      'before',
      examples(
        ['drover template gc --limit 20G', ''],
        ['drover template gc', "by the agent's --template-limit, if it has one"],
      ),
    )
    .option('--limit <size>', 'what the templates that stay may take on disk', size)
    .action(
      action(async ({ client, out }, { limit }: { limit?: number }) => {
        const body: GcTemplatesRequest = { limitBytes: limit ?? null }
        out.result(await client.request<GcReply>('POST', '/templates/gc', body), renderCollected)
      }),
    )

  template
    .command('rm')
    .argument('<T>')
    .description('Remove a template that no VM of this node runs from.')
    .addHelpText('before', examples(['drover template rm web', '']))
    .action(
      action(async ({ client, out }, _options, ref: string) => {
        const removed = await client.request<TemplateReply>('DELETE', apiPath`/templates/${ref}`)
        out.result(removed, ({ id }) => `removed ${id}`)
      }),
    )
}

function registerCreate(template: Command, action: Action): void {
  template
    .command('create')
    .argument('<name>', 'what to call it on this node')
    .description(
      'Boot a guest, wait until its serial console matches, seal its memory; prints the template id. ' +
        'Or seal a VM of this node that runs already: it stands still for some milliseconds and runs on.',
    )
    .addHelpText(
      'before',
      examples(
        [
          'drover template create web --kernel vmlinuz --initrd initrd.img --append "console=ttyS0 quiet" \\',
          '',
        ],
        ['    --memory 512M --ready "login:"', ''],
        ['drover template create warm --from-vm web-1', 'web-1 as it is now'],
      ),
    )
    .option('--kernel <file>', 'kernel to boot')
    .option('--initrd <file>', 'its initial RAM disk')
    .option('--append <text>', 'kernel command line', 'console=ttyS0')
    .option('--disk <file>', 'disk image under the overlays of the clones')
    .option('--memory <size>', 'memory of the guest, in whole MiB', size)
    .option('--cpus <n>', 'CPUs of the guest', count, 1)
    .option(
      '--machine <type>',
      'versioned machine type, such as pc-q35-7.2 (default: the newest of this QEMU)',
    )
    .option('--ready <regex>', 'what the serial console says when the guest is ready', pattern)
    .option('--ready-timeout <seconds>', 'how long it may take', positive, DEFAULT_READY_TIMEOUT_S)
    .addOption(
      new Option(
        '--from-vm <vm>',
        'seal this VM instead of booting one; without NICs and disk of its own',
      ).conflicts(BOOT_OPTIONS),
    )
    .action(
      action(async ({ client, out }, options: CreateOptions, name: string) => {
        if (options.fromVm !== undefined) {
          const body: SealVmRequest = { name, vm: options.fromVm }
          const request = { method: 'POST', path: '/templates/from-vm', body } as const
          const sealed = await client.operation<TemplateProgress, SealVmReply>(request, showProgress(out))
          out.result(sealed, ({ id }) => id)
          if (!out.json) out.note(sealedNote(sealed))
          return
        }
        const request = { method: 'POST', path: '/templates', body: bootRequest(name, options) } as const
        out.result(
          await client.operation<TemplateProgress, TemplateReply>(request, showProgress(out)),
          ({ id }) => id,
        )
      }),
    )
}

function bootRequest(name: string, options: CreateOptions): CreateTemplateRequest {
  const { kernel, memory, ready } = options
  if (kernel === undefined || memory === undefined || ready === undefined) {
    const missing = Object.entries({ '--kernel': kernel, '--memory': memory, '--ready': ready })
      .filter(([, value]) => value === undefined)
      .map(([option]) => option)
    throw new CliError(
      'USAGE',
      `missing ${missing.join(', ')}: give all of --kernel, --memory and --ready, or --from-vm`,
    )
  }
  return {
    name,
    kernelPath: resolve(kernel),
    initrdPath: options.initrd === undefined ? null : resolve(options.initrd),
    diskPath: options.disk === undefined ? null : resolve(options.disk),
    kernelCommandLine: options.append,
    memoryBytes: memory,
    cpus: options.cpus,
    machineType: options.machine ?? null,
    readyPattern: ready,
    readyTimeoutMs: Math.ceil(options.readyTimeout * 1000),
  }
}

function sealedNote({ changedPages, blackoutMs }: SealVmReply): string {
  const own = formatBytes(changedPages * PAGE_BYTES)
  return `${own} differ from its parent; the VM stood still for ${formatMs(blackoutMs)}`
}

function showProgress(out: Output): (progress: TemplateProgress) => void {
  return ({ stage, done, total }) => {
    const share =
      done === null || total === null || total === 0 ? '' : ` ${Math.floor((100 * done) / total)} %`
    out.progress(`${stage}${share}`)
  }
}

function renderList({ templates }: { templates: TemplateReply[] }): string {
  return renderTable(
    ['NAME', 'ID', 'MEMORY', 'MACHINE', 'ACCEL', 'VMS', 'CREATED'],
    templates.map(({ names, id, memoryBytes, machineType, accelerator, usedBy, createdAtMs }) => [
      names.join(', ') || '-',
      shortId(id),
      formatBytes(memoryBytes),
      machineType,
      accelerator,
      String(usedBy.length),
      formatTime(createdAtMs),
    ]),
  )
}

function renderMesh({ templates }: { templates: MeshTemplateReply[] }): string {
  return renderTable(
    ['NAMES', 'ID', 'MEMORY', 'NODES'],
    templates.map(({ names, id, memoryBytes, nodes }) => [
      names.join(', ') || '-',
      shortId(id),
      memoryBytes === null ? '-' : formatBytes(memoryBytes),
      nodes.map(({ name }) => name).join(', '),
    ]),
  )
}

function renderOne(template: TemplateReply): string {
  return renderFacts([
    ['id', template.id],
    ['names', template.names.join(', ') || '-'],
    ['created', formatTime(template.createdAtMs)],
    ['memory', formatBytes(template.memoryBytes)],
    ['machine', `${template.machineType}, ${template.cpus} × ${template.cpuModel}, ${template.accelerator}`],
    ['command line', template.kernelCommandLine],
    ['spare ports', String(template.spareRootPorts)],
    ['state', formatBytes(template.stateBytes)],
    ['disk', template.diskBytes === null ? null : formatBytes(template.diskBytes)],
    ['VMs', template.usedBy.join(', ') || 'none'],
  ])
}

function renderVerified({ templates }: VerifyReply): string {
  return templates
    .map(({ id, names, damaged, repaired, error }) => {
      const state = damaged.length === 0 ? 'ok' : repaired === null ? 'DAMAGED' : 'repaired'
      const files = damaged.map(
        ({ file, pages }) =>
          `  ${file}${pages === undefined ? '' : `: pages ${pages.slice(0, 16).join(', ')}`}`,
      )
      const why = error === null ? [] : [`  not repaired: ${error.message} (${error.code})`]
      return [`${names[0] ?? shortId(id)}: ${state}`, ...files, ...why].join('\n')
    })
    .join('\n')
}

function renderCollected({ removed, partialBytes, keptBytes, limitBytes }: GcReply): string {
  const gone = removed.map(
    ({ id, names, bytes }) => `removed ${names[0] ?? shortId(id)}  ${formatBytes(bytes)}`,
  )
  const partial =
    partialBytes === 0 ? [] : [`removed remains of interrupted fetches  ${formatBytes(partialBytes)}`]
  const limit = limitBytes === null ? 'no limit' : `limit ${formatBytes(limitBytes)}`
  return [...gone, ...partial, `${formatBytes(keptBytes)} of templates kept (${limit})`].join('\n')
}
