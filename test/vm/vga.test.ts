import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { newerQemu } from '../support/newer-qemu.ts'
import { inGuest, move, runVm, TwoNodes } from '../support/two-nodes.ts'

/** Memory besides main RAM that the guest may write: QEMU sends it with the rest. */

const TEST_TIMEOUT_MS = 180_000
const WRITTEN_PAGES = 32
/** Address of the first resource of the device of PCI class 0x030000. */
const FIND_VRAM =
  'for d in /sys/bus/pci/devices/*; do if grep -q 0x030000 $d/class; then echo 1 > $d/enable; read a b < $d/resource; echo $((a)); fi; done'

let dir: string
let nodes: TwoNodes
let unusable: string | null
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drover-vga-'))
  const { path, reason } = await newerQemu()
  unusable = reason
  if (path === null) return
  const qemu = join(dir, 'qemu-with-vga')
  // A machine of a VM gets the device; what only asks the program what it can do doesn't.
  await writeFile(
    qemu,
    `#!/bin/sh\ncase "$*" in *pc-q35*) set -- "$@" -device VGA ;; esac\nexec '${path}' "$@"\n`,
  )
  await chmod(qemu, 0o755)
  nodes = await TwoNodes.start({ memory: '128M', qemu })
}, TEST_TIMEOUT_MS)
afterAll(async () => {
  await nodes?.[Symbol.asyncDispose]()
  await rm(dir, { recursive: true })
}, TEST_TIMEOUT_MS)
beforeEach(({ skip }) => skip(unusable !== null, unusable ?? ''))

test("a VGA's memory is there after a move, and after the next", async () => {
  const { source, destination } = nodes
  await runVm(source, 'a')
  const vram = Number(await inGuest(source, 'a', FIND_VRAM))
  // One word in every third page.
  const each = (command: string) =>
    `for i in $(seq ${WRITTEN_PAGES}); do devmem $((${vram} + i * 3 * 4096)) 32 ${command}; done`
  await inGuest(source, 'a', each('$((0x5eed0000 + i))'))
  const written = await inGuest(source, 'a', each(''))
  expect(written).toMatch(/^0x5EED0001\n/)
  const there = await move(source, 'a', destination)
  expect(there.pages.sent).toBeGreaterThan(WRITTEN_PAGES)
  expect(await inGuest(destination, 'a', each(''))).toBe(written)
  await inGuest(destination, 'a', each('0'))
  await move(destination, 'a', source)
  expect(await inGuest(source, 'a', each(''))).toBe('0x00000000\n'.repeat(WRITTEN_PAGES).trim())
})
