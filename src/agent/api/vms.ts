import type { FastifyInstance } from 'fastify'
import { doubtOf, type VmRecord, vmStateName } from '../../domain/vm.ts'
import { stopReason } from '../../vm/index.ts'
import { runVmSchema, stopVmSchema, type VmReply, type VmShowReply } from '../api-schema.ts'
import { type AgentParts, hypervisorOf } from '../parts.ts'
import { checked, closeSignal } from './request.ts'

type VmParams = { Params: { vm: string } }

/** GET and POST /vms, GET and DELETE /vms/VM, POST /vms/VM/{pause,resume,reset,stop}. */
export function vmRoutes(server: FastifyInstance, parts: AgentParts): void {
  const vms = () => hypervisorOf(parts).vms
  const one = (ref: string) => vmReply(vms().get(ref), parts)

  server.get('/vms', () => ({
    vms: vms()
      .list()
      .map((record) => vmReply(record, parts)),
  }))

  server.post('/vms', async (request, reply) => {
    const { name, template, nics } = checked(runVmSchema, request.body)
    const wanted = nics.map(({ mac, forwards }) => ({ forwards, ...(mac === undefined ? {} : { mac }) }))
    const record = await vms().run(
      { name, templateRef: template, nics: wanted },
      { signal: closeSignal(reply) },
    )
    return vmReply(record, parts)
  })

  server.get<VmParams>('/vms/:vm', async (request): Promise<VmShowReply> => {
    const { record, pages, pagesUnavailable, consoleSocket, runState } = await vms().show(request.params.vm)
    return { ...vmReply(record, parts), pages, pagesUnavailable, consoleSocket, runState }
  })

  for (const action of ['pause', 'resume', 'reset'] as const) {
    server.post<VmParams>(`/vms/:vm/${action}`, async (request, reply) => {
      await vms()[action](request.params.vm, { signal: closeSignal(reply) })
      return one(request.params.vm)
    })
  }

  server.post<VmParams>('/vms/:vm/stop', async (request, reply) => {
    const { force } = checked(stopVmSchema, request.body)
    await vms().stopVm(request.params.vm, { force, signal: closeSignal(reply) })
    return one(request.params.vm)
  })

  server.delete<VmParams>('/vms/:vm', async (request) => {
    const removed = one(request.params.vm)
    await vms().remove(request.params.vm)
    return removed
  })
}

function vmReply({ spec, state, epoch, createdAtMs }: VmRecord, { mesh, templates }: AgentParts): VmReply {
  const template = templates.has(spec.templateId) ? templates.get(spec.templateId) : null
  return {
    name: spec.name,
    id: spec.id,
    node: mesh.name,
    epoch,
    state: vmStateName(state),
    reason: state.kind === 'stopped' ? stopReason(state) : null,
    template: spec.templateId,
    templateNames: template?.names ?? [],
    memoryBytes: template?.manifest.machine.memoryBytes ?? null,
    createdAtMs,
    pid: state.kind === 'stopped' ? null : state.process.pid,
    nics: spec.nics,
    hasDisk: spec.hasDisk,
    generationId: spec.generationId,
    migrationId: state.kind === 'departing' ? state.migrationId : (doubtOf(state)?.migrationId ?? null),
  }
}
