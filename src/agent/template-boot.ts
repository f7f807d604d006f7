import { randomUUID } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type QemuBinary, QemuProcess, readLogTail } from '../qemu/index.ts'
import { type TemplateBoot, TemplateError } from '../template/index.ts'
import { ConsoleWatch } from './console-watch.ts'
import { AgentError } from './errors.ts'

/** The RAM file is saved by its mapping; the state file holds 300 KB. */
const SAVE_TIMEOUT_MS = 60_000

/**
 * Boots a template's guest with its RAM in the draft's file, waits until the
 * console matches, stops it and saves the rest of its state.
 *
 * Its run directory lies beside the VMs' and has a UUID like theirs: what a
 * killed agent leaves there is cleaned up with the VMs' leftovers.
 *
 * @throws TemplateError TEMPLATE_NOT_READY; AgentError GUEST_ENDED; QemuError when QEMU doesn't start
 */
export function templateBoot(binary: QemuBinary, runDirs: string): TemplateBoot {
  return async ({ machine, ram, state, kernel, initrd, disk, readyPattern, signal }) => {
    const runDir = join(runDirs, randomUUID())
    await mkdir(runDir, { recursive: true, mode: 0o700 })
    try {
      const qemu = await QemuProcess.start(
        binary,
        {
          machine,
          ram: { path: ram, share: true },
          kernelPath: kernel,
          initrdPath: initrd,
          disk: disk === null ? null : { basePath: disk, overlayPath: null },
          nics: [],
          generationId: 'auto',
          incoming: false,
          runDir,
        },
        { signal },
      )
      try {
        await untilReady(qemu, readyPattern, signal)
        await qemu.pause({ signal })
        await qemu.saveTemplateState(state, { signal, timeoutMs: SAVE_TIMEOUT_MS })
      } finally {
        await qemu.quit()
      }
    } finally {
      await rm(runDir, { recursive: true, force: true })
    }
  }
}

async function untilReady(qemu: QemuProcess, pattern: RegExp, signal: AbortSignal): Promise<void> {
  using console = await ConsoleWatch.connect(qemu.consoleSocket)
  await qemu.resume({ signal })
  let matched: boolean
  try {
    matched = await console.says(pattern, signal)
  } catch (cause) {
    // Anything but the end of its time is the caller's own doing.
    if ((cause as Error).name !== 'TimeoutError') throw cause
    const lastLines = console.lastLines()
    throw new TemplateError(
      'TEMPLATE_NOT_READY',
      `the guest's console didn't match ${pattern} in time; ` +
        (lastLines.length === 0
          ? 'it said nothing at all: is "console=ttyS0" on its kernel command line (--append)?'
          : `it said last:\n${indented(lastLines)}`),
      { cause, details: { pattern: pattern.source, lastLines } },
    )
  }
  if (matched) return
  const [lastLines, lastWords] = [console.lastLines(), await readLogTail(join(qemu.runDir, 'qemu.log'))]
  throw new AgentError(
    'GUEST_ENDED',
    `the guest's QEMU ended before its console matched ${pattern}; last lines:\n${indented([...lastLines, ...lastWords])}`,
    { details: { pattern: pattern.source, lastLines, lastWords } },
  )
}

function indented(lines: readonly string[]): string {
  return lines.map((line) => `  ${line}`).join('\n')
}
