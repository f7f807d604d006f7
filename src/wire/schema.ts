import { readFileSync } from 'node:fs'
import protobuf from 'protobufjs'

/**
 * The protocols are the `.proto` files themselves, parsed once at start (2 ms):
 * no generated code that could differ from them.
 */
const root = new protobuf.Root()
for (const file of ['template', 'mesh', 'migration', 'command', 'placement']) {
  const path = new URL(`../../proto/${file}.proto`, import.meta.url)
  protobuf.parse(readFileSync(path, 'utf8'), root, { keepCase: false })
}
root.resolveAll()

/** A protobuf message type of `proto/`, such as `drover.migration.Offer`. */
export function messageType(name: string): protobuf.Type {
  return root.lookupType(name)
}
