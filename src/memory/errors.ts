import { DroverError, type ErrorCodes, type ErrorInit } from '../domain/errors.ts'

export const MEMORY_ERRORS = {
  MEMORY_NOT_PERMITTED: 'refused',
  MEMORY_MAPPING_NOT_FOUND: 'failed',
  MEMORY_PROCESS_GONE: 'failed',
} as const satisfies ErrorCodes

/** Guest memory that can't be reached from outside. */
export class MemoryError extends DroverError<keyof typeof MEMORY_ERRORS> {
  constructor(code: keyof typeof MEMORY_ERRORS, message: string, init?: ErrorInit) {
    super(code, MEMORY_ERRORS[code], message, init)
  }
}

/** Whether an error, of this thread or of another, says that a guest's memory may not be looked into. */
export function isMemoryClosed(error: unknown): boolean {
  return error instanceof DroverError && error.code === 'MEMORY_NOT_PERMITTED'
}

/** What a failed system call on a file of `/proc/PID` means. */
export function procError(pid: number, file: string, cause: unknown): MemoryError {
  const errno = (cause as NodeJS.ErrnoException).code
  if (errno === 'EACCES' || errno === 'EPERM') {
    return new MemoryError(
      'MEMORY_NOT_PERMITTED',
      `no permission to open /proc/${pid}/${file}: run the agent as the user that runs QEMU, or give it ` +
        'CAP_SYS_PTRACE (`drover doctor` shows what is missing)',
      { cause, details: { pid, file } },
    )
  }
  return new MemoryError('MEMORY_PROCESS_GONE', `QEMU (pid ${pid}) is gone: /proc/${pid}/${file}: ${errno}`, {
    cause,
    details: { pid, file },
  })
}
