import { parentPort } from 'node:worker_threads'
import { ArrivalJob } from './arrival-job.ts'
import { type FromThread, sendError, type ToThread } from './calls.ts'
import { CaptureJob } from './capture-job.ts'
import { rehearse } from './rehearsal.ts'

/** The inside of a page thread: makes jobs and runs their methods, as calls.ts draws it. */

type Job = CaptureJob | ArrivalJob
/** Resolves when everything asked of a job so far is done: one call at a time, in order. */
const jobs = new Map<number, Promise<Job>>()
const port = parentPort!

port.on('message', (message: ToThread) => {
  const { id } = message
  run(message).then(
    (value) => port.postMessage({ id, value } satisfies FromThread),
    (error: unknown) => port.postMessage({ id, error: sendError(error) } satisfies FromThread),
  )
})

// Whatever keeps it from being rehearsed shows when it is done for real.
rehearse().catch(() => {})

async function run(message: ToThread): Promise<unknown> {
  const { id } = message
  if ('open' in message) {
    const opening = open(message)
    jobs.set(id, opening)
    opening.catch(() => jobs.delete(id))
    await opening
    return
  }
  const idle = jobs.get(id)!
  if ('close' in message) {
    jobs.delete(id)
    return (await idle).close()
  }
  const answer = idle.then((job) => {
    const methods = job as unknown as Record<string, (...args: unknown[]) => unknown>
    return methods[message.call]!(...message.args)
  })
  jobs.set(
    id,
    answer.then(
      () => idle,
      () => idle,
    ),
  )
  return answer
}

function open(message: Extract<ToThread, { open: unknown }>): Promise<Job> {
  return message.open === 'capture'
    ? CaptureJob.open(message.init as Parameters<typeof CaptureJob.open>[0])
    : ArrivalJob.open(message.init as Parameters<typeof ArrivalJob.open>[0])
}
