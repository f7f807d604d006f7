import { execFile } from 'node:child_process'
import { cp, mkdir, readFile, realpath, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const ROOT = new URL('../..', import.meta.url).pathname

/**
 * An initrd that is the test guest's with Node and drover's own code on top,
 * for what only another kernel can show. Archives one after another are one
 * initramfs to Linux (Documentation/driver-api/early-userspace/buffer-format.rst).
 *
 * @returns path of the initrd, in `dir`
 */
export async function initrdWithNode(
  guestDir: string,
  dir: string,
  sources: readonly string[],
): Promise<string> {
  const tree = join(dir, 'tree')
  const node = await realpath(process.execPath)
  // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, and the loader, which has no arrow.
  const { stdout } = await run('ldd', [node])
  const libraries = [...stdout.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1]!)
  for (const path of libraries) await copy(path, join(tree, path))
  await copy(node, join(tree, 'bin/node'))
  for (const source of sources)
    await cp(join(ROOT, source), join(tree, 'drover', source), { recursive: true })
  await run('sh', ['-c', 'find . | cpio --quiet -o -H newc > ../node.cpio'], { cwd: tree })
  const initrd = join(dir, 'initrd.img')
  const base = await readFile(join(guestDir, 'initrd.img'))
  // The kernel looks for the next archive at the next multiple of four bytes.
  const padding = Buffer.alloc(-base.length & 3)
  await writeFile(initrd, Buffer.concat([base, padding, await readFile(join(dir, 'node.cpio'))]))
  return initrd
}

async function copy(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true })
  await cp(from, to, { dereference: true })
}
