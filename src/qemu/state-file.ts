import { StreamInput, streamRecords } from './stream-records.ts'

/** A page of a state file; `content` null means zero. */
export interface StatePage {
  offsetBytes: number
  content: Uint8Array | null
}

export interface StateBlock {
  name: string
  usedBytes: number
  pages: StatePage[]
}

/** What of a template's state concerns memory; the devices follow it in the file. */
export interface StateFile {
  machineType: string
  /** In the file's order. Main RAM is listed and has no pages: they are in the template's RAM file. */
  blocks: StateBlock[]
  /** Where the last section of RAM ends and the first device begins. */
  ramEndBytes: number
}

/** The devices of a state file: what device states of its clones are compressed against. */
export function deviceSections(stateFile: Buffer): Buffer {
  return stateFile.subarray(readStateFile(stateFile).ramEndBytes)
}

/**
 * Reads the head of a file that `migrate` wrote with `x-ignore-shared`
 * (layout: stream-format.ts): machine type and RAM blocks. Contents are views
 * on `bytes`.
 *
 * @throws QemuError STATE_FILE_MALFORMED (details: position)
 */
export function readStateFile(bytes: Uint8Array): StateFile {
  const input: StreamInput = new StreamInput('STATE_FILE_MALFORMED')
  input.feed(bytes)
  const blocks = new Map<string, StateBlock>()
  let machineType = ''
  for (const record of streamRecords(input)) {
    if (record === null) input.fail('the file ends too early')
    if (record.kind === 'machine') machineType = record.machineType
    else if (record.kind === 'block') blocks.set(record.block.name, { ...record.block, pages: [] })
    else
      blocks.get(record.block.name)!.pages.push({ offsetBytes: record.offsetBytes, content: record.content })
  }
  return { machineType, blocks: [...blocks.values()], ramEndBytes: input.position }
}
