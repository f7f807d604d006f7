import { machine } from '../template/fixture.ts'

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(/\s/g, ''), 'hex')
const shortText = (text: string): Buffer => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)])

function be(value: number, bytes: 4 | 8): Buffer {
  const buffer = Buffer.alloc(bytes)
  if (bytes === 4) buffer.writeUInt32BE(value)
  else buffer.writeBigUInt64BE(BigInt(value))
  return buffer
}

/** A template's state as QEMU saves it with x-ignore-shared (src/qemu/state-file.ts): main memory, no ROMs, one device. */
export function stateFile(memoryBytes: number): Buffer {
  const end = hex('0000000000000010 7e 00000003')
  return Buffer.concat([
    hex('5145564d 00000003 07'),
    be(machine.machineType.length, 4),
    Buffer.from(machine.machineType),
    hex('05'),
    shortText('configuration/capabilities'),
    be(1, 4),
    be(1, 4),
    shortText('x-ignore-shared'),
    hex('01 00000003 03 72616d 00000000 00000004'),
    be(memoryBytes + 4, 8),
    shortText('ram0'),
    be(memoryBytes, 8),
    be(0, 8),
    end,
    hex('03 00000003'),
    end,
    hex('04 00000004 05 74696d6572 00'),
  ])
}
