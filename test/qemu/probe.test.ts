import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { probeQemu } from '../../src/qemu/index.ts'
import { chooseMachineType } from '../../src/qemu/probe.ts'
import { temporaryDirectory } from '../support/qemu-guest.ts'

const TYPES = ['pc-q35-noble', 'pc-q35-9.0', 'pc-q35-8.2', 'pc-q35-8.10', 'pc-q35-4.0.1']

test.each([
  ['the alias', 'q35   Standard PC (alias of pc-q35-8.2)', '8.2.2', 'pc-q35-8.2'],
  ["not a distribution's own", 'q35   Ubuntu PC (alias of pc-q35-noble)', '8.2.2', 'pc-q35-8.2'],
  ['the newest by number', 'no alias', '8.12.0', 'pc-q35-8.10'],
  ['none newer than the binary', 'no alias', '2.0.0', null],
])('machine type for new templates: %s', (_, help, version, expected) => {
  expect(chooseMachineType(help, TYPES, version)).toBe(expected)
})

/** An executable that answers --version and -machine help. */
async function program(script: string): Promise<string> {
  const dir = await temporaryDirectory()
  onTestFinished(() => dir[Symbol.asyncDispose]())
  const path = join(dir.path, 'qemu')
  await writeFile(path, `#!/bin/sh\n${script}\n`)
  await chmod(path, 0o755)
  return path
}

test.each([
  ['another program', 'echo cat 9.1', 'QEMU_NOT_USABLE'],
  ['an old QEMU', 'echo "QEMU emulator version 6.2.0"', 'QEMU_NOT_USABLE'],
  ['another architecture', 'echo "QEMU emulator version 8.2.0"', 'QEMU_NOT_USABLE'],
  ['a library is missing', 'echo libfdt.so.1: cannot open >&2; exit 127', 'QEMU_NOT_USABLE'],
])('%s is not usable', async (_, script, code) => {
  await expect(probeQemu(await program(script), { accelerator: 'auto' })).rejects.toMatchObject({ code })
})

test('no file there', async () => {
  await expect(probeQemu('/nowhere/qemu', { accelerator: 'auto' })).rejects.toMatchObject({
    code: 'QEMU_NOT_FOUND',
    outcome: 'refused',
  })
})

test('an abort ends it', async () => {
  const reason = new Error('stopped')
  const probing = probeQemu(await program('exec sleep 20'), {
    accelerator: 'tcg',
    signal: AbortSignal.abort(reason),
  })
  await expect(probing).rejects.toBe(reason)
})
