import { expect, test } from 'vitest'
import { ramBlockNames, ramBlockReason } from '../../src/qemu/preflight.ts'

/** `x-query-ramblock` of QEMU 7.2; from 8.0 on two more columns follow. */
const ANSWER = `              Block Name    PSize              Offset               Used              Total
                    ram0    4 KiB  0x0000000000000000 0x0000000020000000 0x0000000020000000
    /rom@etc/acpi/tables    4 KiB  0x0000000020080000 0x0000000000020000 0x0000000000200000
                 pc.bios    4 KiB  0x0000000020000000 0x0000000000040000 0x0000000000040000                HVA  RO
0000:00:02.0/vga.vram    2 MiB  0x0000000020040000 0x0000000001000000 0x0000000001000000  0x00007f0b1fe00000  rw
`

test('names of RAM blocks', () => {
  expect(ramBlockNames(ANSWER)).toEqual(['ram0', '/rom@etc/acpi/tables', 'pc.bios', '0000:00:02.0/vga.vram'])
  expect(ramBlockNames('')).toEqual([])
})

test.each([
  'ram0',
  'pc.bios',
  'pc.rom',
  'isa-bios',
  '/rom@etc/table-loader',
  '0000:01:00.0/virtio-net-pci.rom',
])('a VM with %s may move', (name) => {
  expect(ramBlockReason(name)).toBeNull()
})

test.each([
  'vga.vram',
  '0000:00:02.0/vga.vram',
  'system.flash0',
  'mem1',
  'ram00',
  'vmclock_page',
  'pc.ram',
  'rom@x',
])('a VM with %s may not', (name) => {
  expect(ramBlockReason(name)).toContain(name)
})
