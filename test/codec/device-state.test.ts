import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { compressDeviceState, decompressDeviceState } from '../../src/codec/index.ts'

const dictionary = randomBytes(300_000)
const state = Buffer.concat([dictionary.subarray(1_000, 79_000), Buffer.from('the part that differs')])

const compressed = compressDeviceState(state, dictionary)

test('state that is mostly in the dictionary becomes small, and comes back', () => {
  expect(compressed.length).toBeLessThan(500)
  expect(decompressDeviceState(compressed, dictionary, state.length).equals(state)).toBe(true)
})

test.each([
  ['another length', compressed, dictionary, state.length - 1],
  ['a length beyond any machine', compressed, dictionary, 2 ** 31],
  ['another dictionary', compressed, randomBytes(300_000), state.length],
  ['no zstd at all', randomBytes(100), dictionary, state.length],
])('%s is refused', (_, data, dict, bytes) => {
  expect(() => decompressDeviceState(data, dict, bytes)).toThrow(
    expect.objectContaining({ code: 'DEVICE_STATE_MALFORMED' }),
  )
})
