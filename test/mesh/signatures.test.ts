import { randomBytes } from 'node:crypto'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { expect, test } from 'vitest'
import { PeerSignatures } from '../../src/mesh/signatures.ts'

test('a signature is of one peer and one statement', async () => {
  const [key, otherKey] = await Promise.all([generateKeyPair('Ed25519'), generateKeyPair('Ed25519')])
  const [peer, other] = [key, otherKey].map((each) => peerIdFromPrivateKey(each).toString())
  const ours = new PeerSignatures(key)
  const statement = randomBytes(200)
  const signature = await ours.sign(statement)
  const theirs = new PeerSignatures(otherKey)
  expect(await theirs.isSignedBy(peer!, statement, signature)).toBe(true)
  expect(await theirs.isSignedBy(other!, statement, signature)).toBe(false)
  expect(await theirs.isSignedBy(peer!, randomBytes(200), signature)).toBe(false)
  // The bare statement, signed by the same key for something else.
  expect(await theirs.isSignedBy(peer!, statement, await key.sign(statement))).toBe(false)
})

test.each([
  ['no peer id', 'edge-1', randomBytes(64)],
  ['a peer id without a key in it', 'QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N', randomBytes(64)],
  ['no signature', 'own', new Uint8Array(0)],
  ['a signature that is too short', 'own', randomBytes(10)],
])('%s is not signed, and no error', async (_, peer, signature) => {
  const key = await generateKeyPair('Ed25519')
  const own = peerIdFromPrivateKey(key).toString()
  const signatures = new PeerSignatures(key)
  expect(await signatures.isSignedBy(peer === 'own' ? own : peer, randomBytes(9), signature)).toBe(false)
})
