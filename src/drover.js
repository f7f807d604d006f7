#!/usr/bin/env node
// Plain JavaScript that old Nodes parse too: they can't load a .ts file, and should say so in one line.
const MIN_NODE_MAJOR = 24

/**
 * Types are stripped and modules compiled once, not at each start: half of the start of a short command. In the
 * user's own cache, as Node's default place in /tmp can be made by anybody. NODE_DISABLE_COMPILE_CACHE=1 turns it off.
 */
async function cacheCompiledCode() {
  const cache = process.env.XDG_CACHE_HOME || (process.env.HOME && `${process.env.HOME}/.cache`)
  if (!cache) return
  const { enableCompileCache } = await import('node:module')
  enableCompileCache(`${cache}/drover`)
}

if (Number(process.versions.node.split('.')[0]) < MIN_NODE_MAJOR) {
  process.stderr.write(
    `drover: needs Node.js ${MIN_NODE_MAJOR} or newer, this is ${process.version} (${process.execPath}); ` +
      'start it with `npx drover`, which takes the Node installed beside it, or put node_modules/.bin first in PATH\n',
  )
  process.exitCode = 1
} else {
  await cacheCompiledCode()
  await import('./main.ts')
}
