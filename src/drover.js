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

/**
 * An agent has few objects and many buffers, of pages and what becomes of them. How V8 and malloc deal with freed ones
 * decides its size and half of its CPU time: with these it has 230 MiB after moves of 48 MiB instead of 430, and they
 * take 470 ms instead of 680. Young objects don't spread over 48 MiB. Not each 20 MiB of buffers sets off a collection
 * of all, with four threads that mark: what is small may grow threefold. Freed buffers go back to the machine: one arena
 * for all threads, mappings of their own from 64 KiB on (mallopt(3)). And src/migration/garbage.ts says when to collect.
 */
const AGENT_NODE_FLAGS = ['--max-semi-space-size=4', '--heap-growing-percent=200', '--expose-gc']
const AGENT_MALLOC = {
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '65536',
  MALLOC_TRIM_THRESHOLD_: '131072',
}

/** Both are read once, when a process starts: it starts anew, in its place, and forgets them for those that it starts. */
function tuneAgent() {
  if (AGENT_NODE_FLAGS.every((flag) => process.execArgv.includes(flag))) {
    for (const name of Object.keys(AGENT_MALLOC)) delete process.env[name]
    return
  }
  const args = [process.execPath, ...AGENT_NODE_FLAGS, ...process.execArgv, ...process.argv.slice(1)]
  process.execve(process.execPath, args, { ...process.env, ...AGENT_MALLOC })
}

if (Number(process.versions.node.split('.')[0]) < MIN_NODE_MAJOR) {
  process.stderr.write(
    `drover: needs Node.js ${MIN_NODE_MAJOR} or newer, this is ${process.version} (${process.execPath}); ` +
      'start it with `npx drover`, which takes the Node installed beside it, or put node_modules/.bin first in PATH\n',
  )
  process.exitCode = 1
} else {
  if (process.argv.includes('agent')) tuneAgent()
  await cacheCompiledCode()
  await import('./main.ts')
}
