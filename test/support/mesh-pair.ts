import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Level } from 'level'
import { Mesh, type MeshComponents, type MeshInit, type MeshLog } from '../../src/mesh/index.ts'

const QUIET: MeshLog = { debug: () => undefined, info: () => undefined, warn: () => undefined }

export interface TestNodeOptions
  extends Partial<Pick<MeshComponents, 'facts' | 'inventory' | 'mayRemove'>>,
    Partial<Pick<MeshInit, 'joinToken' | 'bootstrap' | 'mdns' | 'beatMs'>> {
  /** Kept for the next start on the same directory: it isn't removed at the end then. */
  dataDir?: string
  listen?: readonly string[]
  log?: MeshLog
  /** Called before the start: no event is missed. */
  onStarting?: (mesh: Mesh) => void
}

export interface TestNode extends AsyncDisposable {
  mesh: Mesh
  dataDir: string
}

/** A real node on loopback, with a database of its own; all of it gone at the end. */
export async function startNode(name: string, options: TestNodeOptions = {}): Promise<TestNode> {
  const {
    listen = ['/ip4/127.0.0.1/tcp/0'],
    log = QUIET,
    facts,
    inventory,
    mayRemove,
    onStarting,
    ...init
  } = options
  const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'drover-mesh-')))
  const db = new Level<string, unknown>(join(dataDir, 'db'), { valueEncoding: 'json' })
  const mesh = new Mesh(
    {
      db,
      log,
      ...(facts === undefined ? {} : { facts }),
      ...(inventory === undefined ? {} : { inventory }),
      ...(mayRemove === undefined ? {} : { mayRemove }),
    },
    { ...init, name, listen, dataDir },
  )
  onStarting?.(mesh)
  const dispose = async () => {
    await mesh.stop()
    await db.close()
    if (options.dataDir === undefined) await rm(dataDir, { recursive: true, force: true })
  }
  try {
    await mesh.start()
  } catch (error) {
    await dispose()
    throw error
  }
  return { mesh, dataDir, [Symbol.asyncDispose]: dispose }
}

export interface MeshGroup extends AsyncDisposable {
  nodes: readonly Mesh[]
}

/** Nodes n0, n1... with one key, each joined through n0, once everybody is connected to everybody. */
export async function startMesh(
  count: number,
  optionsOf: (index: number) => TestNodeOptions = () => ({}),
): Promise<MeshGroup> {
  const stack = new AsyncDisposableStack()
  try {
    const first = stack.use(await startNode('n0', optionsOf(0)))
    const joinToken = first.mesh.token()
    const others = await Promise.all(
      Array.from({ length: count - 1 }, async (_, index) =>
        stack.use(await startNode(`n${index + 1}`, { ...optionsOf(index + 1), joinToken })),
      ),
    )
    const nodes = [first, ...others].map(({ mesh }) => mesh)
    await Promise.all(nodes.map((node) => whenConnected(node, count)))
    return { nodes, [Symbol.asyncDispose]: () => stack.disposeAsync() }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

/** 276 handshakes in one process: a slow or busy machine takes over half a minute for them. */
const CONNECT_TIMEOUT_MS = 90_000

/** Until `mesh` has met `count` nodes, itself included, and is connected to all of them. */
export async function whenConnected(
  mesh: Mesh,
  count: number,
  timeoutMs = CONNECT_TIMEOUT_MS,
): Promise<void> {
  await whenMembers(
    mesh,
    (members) => members.filter(({ connected }) => connected).length >= count,
    timeoutMs,
  )
}

/** Until the members of `mesh` are as they should be. */
export async function whenMembers(
  mesh: Mesh,
  condition: (members: ReturnType<Mesh['members']>) => boolean,
  timeoutMs = CONNECT_TIMEOUT_MS,
): Promise<void> {
  const done = Promise.withResolvers<void>()
  const check = () => {
    try {
      if (condition(mesh.members())) done.resolve()
    } catch (error) {
      // Stopped meanwhile.
      done.reject(error)
    }
  }
  const unsubscribe = mesh.onMember(check)
  const timer = setTimeout(() => {
    done.reject(new Error(`the members of ${mesh.name} are not as expected after ${timeoutMs} ms`))
  }, timeoutMs)
  check()
  try {
    await done.promise
  } finally {
    clearTimeout(timer)
    unsubscribe()
  }
}
