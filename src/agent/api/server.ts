import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import { AgentError } from '../errors.ts'
import { claimSocket, restrictSocket } from '../local-socket.ts'
import type { AgentParts } from '../parts.ts'
import { drainRoutes } from './drain.ts'
import { eventRoutes } from './events.ts'
import { meshRoutes } from './mesh.ts'
import { migrationRoutes } from './migrations.ts'
import { nodeRoutes } from './node.ts'
import { rebalanceRoutes } from './rebalance.ts'
import { apiError } from './request.ts'
import { templateRoutes } from './templates.ts'
import { vmRoutes } from './vms.ts'

/** No request is longer than a kernel command line and some names. */
const MAX_BODY_BYTES = 64 * 1024

/** Ending a QEMU takes three steps of some seconds each, if it hangs. Longer than that, systemd would kill us. */
const MAX_CLEANUP_MS = 20_000

const ROUTES = [
  nodeRoutes,
  meshRoutes,
  templateRoutes,
  vmRoutes,
  migrationRoutes,
  drainRoutes,
  rebalanceRoutes,
  eventRoutes,
]

/** The local API on the agent's unix socket: see `api-schema.ts`. */
export class ApiServer {
  readonly #server: FastifyInstance
  readonly #socket: string
  /** Handlers that have not returned yet, whether their client still listens or not. */
  readonly #handling = new Set<unknown>()

  constructor(parts: AgentParts) {
    this.#socket = parts.config.socket
    this.#server = Fastify({
      bodyLimit: MAX_BODY_BYTES,
      forceCloseConnections: true,
      exposeHeadRoutes: false,
    })
    this.#server.setErrorHandler((error, request, reply) => {
      const answer = apiError(httpError(error))
      const log = { method: request.method, url: request.url, code: answer.error.code, err: error }
      if (answer.error.code === 'INTERNAL') parts.log.error(log, 'request failed')
      else parts.log.debug(log, 'request refused')
      return reply.code(answer.status).send({ error: answer.error })
    })
    this.#server.setNotFoundHandler((request) => {
      throw new AgentError(
        'ROUTE_NOT_FOUND',
        `the agent has no ${request.method} ${request.url}: is it older than the command line?`,
      )
    })
    this.#server.addHook('onRoute', (route) => {
      const { handler } = route
      const handling = this.#handling
      route.handler = function (request, reply) {
        const handled = (async () => handler.call(this, request, reply))()
        handling.add(handled)
        return handled.finally(() => handling.delete(handled))
      }
    })
    for (const routes of ROUTES) routes(this.#server, parts)
  }

  /** @throws AgentError AGENT_ALREADY_RUNNING, DATA_DIR_UNUSABLE */
  async start(): Promise<void> {
    await claimSocket(this.#socket)
    await this.#server.listen({ path: this.#socket })
    await restrictSocket(this.#socket)
  }

  /** Cancels what clients wait for, waits until it has cleaned up, and removes the socket. */
  async stop(): Promise<void> {
    await this.#server.close()
    await Promise.race([Promise.allSettled(this.#handling), sleep(MAX_CLEANUP_MS, undefined, { ref: false })])
  }
}

/** Fastify's own errors (bad JSON, too long) are the client's. */
function httpError(error: unknown): unknown {
  const { statusCode, message } = error as { statusCode?: number; message?: string }
  if (statusCode === undefined || statusCode >= 500) return error
  return new AgentError('REQUEST_INVALID', message ?? 'bad request', { cause: error })
}
