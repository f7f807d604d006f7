import type { Command } from 'commander'
import type { EventReply } from '../../agent/api-schema.ts'
import { examples } from '../help.ts'
import type { Action } from '../session.ts'
import { formatTime } from '../units.ts'

export function registerEvents(program: Command, action: Action): void {
  program
    .command('events')
    .description('Print what happens on this node, one line (with --json one document) each, until Ctrl-C.')
    .addHelpText(
      'before',
      examples(
        ['drover events', ''],
        ['drover events --recent --json', 'begin with what is remembered of the past'],
      ),
    )
    .option('--recent', 'begin with the last events, at most 1024')
    .action(
      action(async ({ client, out, signal }, { recent = false }: { recent?: boolean }) => {
        const either = AbortSignal.any([signal, out.readerLeft])
        const path = `/events${recent ? '?recent=1' : ''}`
        try {
          for await (const event of client.lines<EventReply>('GET', path, undefined, either))
            out.result(event, render)
        } catch (error) {
          if (!out.readerLeft.aborted) throw error
        }
      }),
    )
}

function render({ seq: _seq, atMs, kind, ...fields }: EventReply): string {
  const shown = Object.entries(fields).map(([field, value]) => {
    return `${field}=${typeof value === 'string' ? value : JSON.stringify(value)}`
  })
  return [formatTime(atMs), kind, ...shown].join('  ')
}
