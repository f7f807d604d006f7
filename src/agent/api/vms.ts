import type { FastifyInstance } from 'fastify'
import { NAME_PATTERN } from '../../domain/text.ts'
import { VmError } from '../../vm/index.ts'
import { runVmSchema, setVmSchema, stopVmSchema } from '../api-schema.ts'
import { type AgentParts, hypervisorOf } from '../parts.ts'
import { vmReply } from '../vm-reply.ts'
import { checked, closeSignal, commandOptions } from './request.ts'

type VmParams = { Params: { vm: string } }

/** GET and POST /vms: of this node. GET and DELETE /vms/VM, POST /vms/VM/{pause,resume,reset,set,stop,console}: wherever it is. */
export function vmRoutes(server: FastifyInstance, parts: AgentParts): void {
  const { commands } = parts
  const vms = () => hypervisorOf(parts).vms

  server.get('/vms', () => ({
    vms: vms()
      .list()
      .map((record) => vmReply(record, parts)),
  }))

  server.post('/vms', async (request, reply) => {
    const { name, template, nics, clients, auto } = checked(runVmSchema, request.body)
    const wanted = nics.map(({ mac, forwards }) => ({ forwards, ...(mac === undefined ? {} : { mac }) }))
    const record = await vms().run(
      { name, templateRef: template, nics: wanted, clients, auto },
      { signal: closeSignal(reply) },
    )
    return vmReply(record, parts)
  })

  server.get<VmParams>('/vms/:vm', (request, reply) =>
    commands.onVm({ kind: 'show', vm: named(request.params.vm) }, commandOptions(reply)),
  )

  for (const kind of ['pause', 'resume', 'reset'] as const) {
    server.post<VmParams>(`/vms/:vm/${kind}`, (request, reply) =>
      commands.onVm({ kind, vm: named(request.params.vm) }, commandOptions(reply)),
    )
  }

  server.post<VmParams>('/vms/:vm/set', (request, reply) => {
    const { clients, auto } = checked(setVmSchema, request.body)
    return commands.onVm(
      {
        kind: 'set',
        vm: named(request.params.vm),
        clients: clients === null ? null : { clients },
        auto: auto === null ? null : { on: auto },
      },
      commandOptions(reply),
    )
  })

  server.post<VmParams>('/vms/:vm/stop', (request, reply) => {
    const { force } = checked(stopVmSchema, request.body)
    return commands.onVm({ kind: 'stop', vm: named(request.params.vm), force }, commandOptions(reply))
  })

  server.post<VmParams>('/vms/:vm/console', (request, reply) =>
    commands.console(named(request.params.vm), commandOptions(reply)),
  )

  server.delete<VmParams>('/vms/:vm', (request, reply) =>
    commands.onVm({ kind: 'remove', vm: named(request.params.vm) }, commandOptions(reply)),
  )
}

/** What can't be a VM's name or id isn't asked for elsewhere. */
function named(vm: string): string {
  if (NAME_PATTERN.test(vm)) return vm
  throw new VmError('VM_NOT_FOUND', `no VM can be called ${JSON.stringify(vm)}`, { details: { name: vm } })
}
