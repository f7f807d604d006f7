import { randomBytes } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { PrivateKey } from '@libp2p/interface'
import { MESH_KEY_BYTES } from '../wire/mesh-messages.ts'
import { MeshError } from './errors.ts'

const IDENTITY_FILE = 'identity.key'
const MESH_KEY_FILE = 'mesh.key'

/**
 * This node's ed25519 key, as a libp2p PrivateKey protobuf; made at the first start.
 *
 * @throws MeshError KEY_FILE_DAMAGED
 */
export async function loadIdentity(dataDir: string): Promise<PrivateKey> {
  const path = join(dataDir, IDENTITY_FILE)
  const stored = await readIfThere(path)
  if (stored === null) {
    const key = await generateKeyPair('Ed25519')
    await writePrivateFile(dataDir, IDENTITY_FILE, privateKeyToProtobuf(key))
    return key
  }
  try {
    return privateKeyFromProtobuf(stored)
  } catch (cause) {
    throw damaged(path, cause)
  }
}

/**
 * The key that all nodes of a mesh share, 32 bytes. The first start takes it
 * from the token or, without one, makes a new mesh.
 *
 * @throws MeshError MESH_ALREADY_JOINED when the token is for another mesh; KEY_FILE_DAMAGED
 */
export async function loadMeshKey(dataDir: string, tokenKey: Uint8Array | null): Promise<Uint8Array> {
  const path = join(dataDir, MESH_KEY_FILE)
  const stored = await readIfThere(path)
  if (stored === null) {
    const key = tokenKey ?? randomBytes(MESH_KEY_BYTES)
    await writePrivateFile(dataDir, MESH_KEY_FILE, key)
    return key
  }
  if (stored.length !== MESH_KEY_BYTES) throw damaged(path)
  if (tokenKey !== null && !stored.equals(tokenKey)) {
    throw new MeshError(
      'MESH_ALREADY_JOINED',
      'this node belongs to another mesh than the join token: start it without the token, or with a new data directory',
    )
  }
  return stored
}

async function readIfThere(path: string): Promise<Buffer | null> {
  try {
    return await readFile(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

/** There under its name only when all of it is on disk, and never readable by others. */
async function writePrivateFile(dir: string, name: string, content: Uint8Array): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const temporary = join(dir, `${name}.new`)
  await rm(temporary, { force: true })
  {
    await using file = await open(temporary, 'wx', 0o600)
    await file.writeFile(content)
    await file.sync()
  }
  await rename(temporary, join(dir, name))
  await using directory = await open(dir, 'r')
  await directory.sync()
}

function damaged(path: string, cause?: unknown): MeshError {
  return new MeshError(
    'KEY_FILE_DAMAGED',
    `${path} is not a key of drover: restore it, or remove it to start afresh`,
    {
      cause,
      details: { path },
    },
  )
}
