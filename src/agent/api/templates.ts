import type { FastifyInstance } from 'fastify'
import type { TemplateRecord } from '../../domain/template.ts'
import { type CreateStep, createTemplate } from '../../template/index.ts'
import type { SealStep } from '../../vm/index.ts'
import {
  createTemplateSchema,
  type GcReply,
  gcTemplatesSchema,
  type PullTemplateReply,
  pullTemplateSchema,
  type SealVmReply,
  sealVmSchema,
  type TemplateProgress,
  type TemplateReply,
  type VerifyReply,
  verifyTemplatesSchema,
} from '../api-schema.ts'
import { machineSpec } from '../machine.ts'
import { type AgentParts, hypervisorOf } from '../parts.ts'
import { pullTemplate } from '../pull-template.ts'
import { templateBoot } from '../template-boot.ts'
import { verifyTemplates } from '../verify-templates.ts'
import { checked, streamReply } from './request.ts'

const SEAL_STAGES: Readonly<Record<SealStep, string>> = {
  template: 'copying its template',
  rounds: 'copying what the VM changed',
  hashes: 'sealing its memory',
}

const CREATE_STAGES: Readonly<Record<CreateStep, string>> = {
  copy: 'copying the files',
  boot: 'booting the guest',
  seal: 'sealing its memory',
}

type TemplateParams = { Params: { template: string } }

/**
 * GET and POST /templates, GET and DELETE /templates/T, POST /templates/T/pull,
 * POST /templates/{from-vm,verify,gc}. What is posted is answered with NDJSON, but gc.
 */
export function templateRoutes(server: FastifyInstance, parts: AgentParts): void {
  const { templates } = parts

  server.get('/templates', () => ({
    templates: templates.list().map((record) => templateReply(record, parts)),
  }))

  server.get<TemplateParams>('/templates/:template', (request) =>
    templateReply(templates.resolve(request.params.template), parts),
  )

  server.post('/templates', (request, reply) => {
    const wanted = checked(createTemplateSchema, request.body)
    const { binary } = hypervisorOf(parts)
    const machine = machineSpec(binary, wanted)
    return streamReply<TemplateProgress, TemplateReply>(reply, async (progress, signal) => {
      const record = await createTemplate(templates, templateBoot(binary, parts.config.runDir), {
        name: wanted.name,
        machine,
        kernelPath: wanted.kernelPath,
        initrdPath: wanted.initrdPath,
        diskPath: wanted.diskPath,
        readyPattern: new RegExp(wanted.readyPattern, 'm'),
        readyTimeoutMs: wanted.readyTimeoutMs,
        signal,
        onProgress: (step) => progress({ stage: CREATE_STAGES[step], done: null, total: null }),
      })
      parts.events.publish({ kind: 'template-created', id: record.id, name: wanted.name })
      return templateReply(record, parts)
    })
  })

  server.post('/templates/from-vm', (request, reply) => {
    const { name, vm } = checked(sealVmSchema, request.body)
    const { vms } = hypervisorOf(parts)
    return streamReply<TemplateProgress, SealVmReply>(reply, async (progress, signal) => {
      const { record, parent, blackoutMs, changedPages } = await vms.seal(vm, name, {
        signal,
        onProgress: (step, bytes) =>
          progress({
            stage: SEAL_STAGES[step],
            done: bytes?.bytesDone ?? null,
            total: bytes?.bytesTotal ?? null,
          }),
      })
      parts.events.publish({ kind: 'template-created', id: record.id, name, parent, vm, blackoutMs })
      return { ...templateReply(record, parts), parent, blackoutMs, changedPages }
    })
  })

  server.post<TemplateParams>('/templates/:template/pull', (request, reply) => {
    const { from, name } = checked(pullTemplateSchema, request.body)
    return streamReply<TemplateProgress, PullTemplateReply>(reply, async (progress, signal) => {
      const { record, ...facts } = await pullTemplate(parts, {
        template: request.params.template,
        from,
        name,
        progress,
        signal,
      })
      return { ...templateReply(record, parts), ...facts }
    })
  })

  server.post('/templates/verify', (request, reply) => {
    const wanted = checked(verifyTemplatesSchema, request.body)
    return streamReply<TemplateProgress, VerifyReply>(reply, (progress, signal) =>
      verifyTemplates(parts, { ...wanted, progress, signal }),
    )
  })

  server.post('/templates/gc', (request): Promise<GcReply> => {
    const { limitBytes } = checked(gcTemplatesSchema, request.body)
    // Without a hypervisor nobody knows whether a VM still runs from one.
    hypervisorOf(parts)
    return parts.templateSpace.collect(limitBytes, { spareNewest: false })
  })

  server.delete<TemplateParams>('/templates/:template', async (request) => {
    // Without a hypervisor nobody knows whether a VM still runs from it.
    hypervisorOf(parts)
    const removed = templateReply(templates.resolve(request.params.template), parts)
    await templates.remove(removed.id)
    parts.events.publish({ kind: 'template-removed', id: removed.id, names: removed.names })
    return removed
  })
}

function templateReply(
  { id, names, manifest, createdAtMs }: TemplateRecord,
  parts: AgentParts,
): TemplateReply {
  const { machine } = manifest
  return {
    id,
    names,
    createdAtMs,
    memoryBytes: machine.memoryBytes,
    machineType: machine.machineType,
    accelerator: machine.accelerator,
    cpuModel: machine.cpuModel,
    cpus: machine.cpus,
    kernelCommandLine: machine.kernelCommandLine,
    spareRootPorts: machine.spareRootPorts,
    stateBytes: manifest.sizes.state,
    diskBytes: manifest.sizes.disk || null,
    usedBy: [...(parts.hypervisor?.vms.namesUsing(id) ?? [])],
  }
}
