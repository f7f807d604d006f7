import { access, chmod, constants, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { probeQemu } from '../../src/qemu/index.ts'
import { temporaryDirectory, testBinary } from '../support/qemu-guest.ts'

const path = process.env.DROVER_TEST_QEMU ?? 'qemu-system-x86_64'
const hasKvmDevice = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
  () => true,
  () => false,
)

test('what the QEMU of this machine is', async () => {
  const binary = await testBinary()
  expect(binary).toMatchObject({ path, accelerator: 'tcg', acceleratorReason: null })
  expect(binary.version).toMatch(/^\d+\.\d+\.\d+$/)
  expect(binary.machineTypes).toContain(binary.defaultMachineType)
  expect(binary.defaultMachineType).toMatch(/^pc-q35-\d+\.\d+$/)
})

test('auto never fails for want of KVM, and demanding it agrees with what auto found', async () => {
  const [auto, demanded] = await Promise.allSettled([
    probeQemu(path, { accelerator: 'auto' }),
    probeQemu(path, { accelerator: 'kvm' }),
  ])
  expect(auto).toMatchObject({ status: 'fulfilled' })
  if (auto.status === 'rejected') return
  if (auto.value.accelerator === 'kvm') {
    expect(auto.value.acceleratorReason).toBeNull()
    expect(demanded).toMatchObject({ status: 'fulfilled', value: { accelerator: 'kvm' } })
  } else {
    expect(auto.value.acceleratorReason).not.toBe('')
    const reason = auto.value.acceleratorReason
    expect(demanded).toMatchObject({
      status: 'rejected',
      reason: { code: 'KVM_NOT_USABLE', details: { reason } },
    })
  }
})

describe('a /dev/kvm that opens', () => {
  beforeEach(({ skip }) => skip(!hasKvmDevice, 'this machine has no /dev/kvm that this user may open'))

  /** The real QEMU, except under KVM. */
  async function withKvm(script: string): Promise<string> {
    const dir = await temporaryDirectory()
    onTestFinished(() => dir[Symbol.asyncDispose]())
    const wrapper = join(dir.path, 'qemu')
    await writeFile(
      wrapper,
      `#!/bin/sh\ncase "$*" in *'-accel kvm'*) ${script} ;; *) exec ${path} "$@" ;; esac\n`,
    )
    await chmod(wrapper, 0o755)
    return wrapper
  }

  test.each([
    ['runs no guest code', 'exec sleep 60', /did not finish/],
    ['fails', 'echo "qemu: failed to set MSR 0x10a" >&2; exit 1', /failed to set MSR 0x10a/],
    ['crashes', 'kill -ABRT $$', /./],
    ['ends too early', 'exit 0', /before the guest code reported/],
  ])('and %s is not used', async (_, script, reason) => {
    expect(await probeQemu(await withKvm(script), { accelerator: 'auto' })).toMatchObject({
      accelerator: 'tcg',
      acceleratorReason: expect.stringMatching(reason),
    })
  })

  test('and runs guest code is used', async () => {
    // The guest code runs under TCG here, and reports as it would under KVM.
    const binary = await probeQemu(await withKvm(`exec ${path} $(echo "$@" | sed s/kvm/tcg/)`), {
      accelerator: 'auto',
    })
    expect(binary).toMatchObject({ accelerator: 'kvm', acceleratorReason: null })
  })
})
