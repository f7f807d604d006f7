/**
 * Checks that imports under src/ follow the arrows between the rooms:
 *
 *     main → cli | agent → migration, vm, placement → template, memory, qemu, mesh → wire, codec → domain
 *
 * A room may import itself and every room further right; rooms that stand together don't import each other.
 * The exceptions are listed below. Usage: node scripts/check-arrows.ts [ROOT]
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve, sep } from 'node:path'

/** Left to right; web is what the agent serves, drover.js the launcher in plain JavaScript before main.ts. */
const LAYERS = [
  ['drover'],
  ['main'],
  ['cli', 'agent'],
  ['migration', 'vm', 'placement', 'web'],
  ['template', 'memory', 'qemu', 'mesh'],
  ['wire', 'codec'],
  ['domain'],
] as const

/** Rooms whose reach is narrower than "every room further right". */
const NARROWED: Record<string, readonly string[]> = {
  drover: ['main'],
  main: ['cli', 'agent'],
  cli: ['domain'],
  // Reaches the network through an interface only, so that it also runs over an in-memory pair.
  migration: ['template', 'memory', 'qemu', 'wire', 'codec', 'domain'],
}

/** Single files that a room may import although their room is out of its reach. */
const ALLOWED_FILES: Record<string, readonly string[]> = {
  cli: ['agent/api-schema.ts'],
}

const NETWORK_ROOMS = ['mesh', 'agent']
const NETWORK_PACKAGE = /^(libp2p$|libp2p\/|@libp2p\/|@chainsafe\/|@multiformats\/)/

export interface ArrowViolation {
  /** Relative to the root, with forward slashes. */
  file: string
  fromRoom: string
  /** A room, or a package that the room may not use. */
  to: string
}

/** Every import under `root`/src that no arrow allows, sorted by file. */
export function findArrowViolations(root: string): ArrowViolation[] {
  const src = join(root, 'src')
  const violations: ArrowViolation[] = []
  for (const path of sourceFiles(src)) {
    const fromRoom = roomOf(relative(src, path))
    for (const specifier of importsOf(readFileSync(path, 'utf8'))) {
      const to = forbiddenTarget(src, path, fromRoom, specifier)
      if (to !== undefined) violations.push({ file: slashed(relative(root, path)), fromRoom, to })
    }
  }
  return violations
}

/** The module specifiers that a source text imports, re-exports or loads with `import()`. */
export function importsOf(source: string): string[] {
  const code = withoutComments(source)
  const statements =
    /(?:^|[\n;}])\s*(?:import|export)\b(?:[^'"`;()=]*?\bfrom)?\s*(['"])([^'"\n]+)\1|\bimport\s*\(\s*(['"`])([^'"`\n]+)\3/g
  return [...code.matchAll(statements)].map((match) => match[2] ?? match[4] ?? '')
}

/** What `specifier` reaches, if `fromRoom` may not reach it. */
function forbiddenTarget(src: string, path: string, fromRoom: string, specifier: string): string | undefined {
  if (!specifier.startsWith('.')) {
    return NETWORK_PACKAGE.test(specifier) && !NETWORK_ROOMS.includes(fromRoom) ? specifier : undefined
  }
  const target = slashed(relative(src, resolve(dirname(path), specifier)))
  // package.json and the like: not a room.
  if (target.startsWith('../')) return undefined
  const toRoom = roomOf(target)
  if (toRoom === fromRoom || ALLOWED_FILES[fromRoom]?.includes(target)) return undefined
  return reachOf(fromRoom).includes(toRoom) ? undefined : toRoom
}

function reachOf(room: string): readonly string[] {
  const layer = LAYERS.findIndex((rooms) => (rooms as readonly string[]).includes(room))
  // A room that nobody has placed may import nothing, and so asks to be placed.
  if (layer === -1) return []
  return NARROWED[room] ?? LAYERS.slice(layer + 1).flat()
}

/** `vm/run.ts` → `vm`; a file right under src/ is its own room: `main.ts` → `main`. */
function roomOf(pathInSrc: string): string {
  return (slashed(pathInSrc).split('/')[0] ?? '').replace(/\.\w+$/, '')
}

function sourceFiles(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.[cm]?[jt]s$/.test(name))
    .sort()
    .map((name) => join(directory, name))
}

/** Comments go, strings stay: a `//` inside a string is an address. */
function withoutComments(source: string): string {
  return source.replace(
    /('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`)|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (_, text) => text ?? ' ',
  )
}

function slashed(path: string): string {
  return path.split(sep).join('/')
}

if (import.meta.main) {
  const violations = findArrowViolations(process.argv[2] ?? resolve(import.meta.dirname, '..'))
  for (const { file, fromRoom, to } of violations) console.log(`${file}: ${fromRoom} → ${to}`)
  process.exitCode = violations.length === 0 ? 0 : 1
}
