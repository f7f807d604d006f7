import pino, { type Logger } from 'pino'

/**
 * The agent's log: JSON lines on stderr. What could let others into the mesh
 * is cut out wherever it might be logged by mistake.
 */
export function openLog(level: string): Logger {
  return pino(
    {
      level,
      base: null,
      redact: { paths: ['token', 'joinToken', '*.token', '*.joinToken', '*.meshKey'], censor: '***' },
    },
    pino.destination({ dest: 2, sync: true }),
  )
}
