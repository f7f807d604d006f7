import type { VmRecord } from '../domain/vm.ts'
import type { QemuProcess } from '../qemu/index.ts'

/** A VM while a template is made of it. Given back when disposed. */
export interface SealLoan extends Disposable {
  /** As it was when the VM was lent. */
  readonly record: VmRecord
  readonly process: QemuProcess
  /**
   * Stops the guest for as long as `look` takes; then it goes on, whatever
   * happened. One that its user has paused stays so. The record says all the
   * while what is meant: by it the next agent resumes a guest whose agent died here.
   *
   * @returns blackoutMs - 0 for a paused guest
   * @throws VmError TEMPLATE_NOT_DERIVABLE when the guest doesn't run; VM_UNREACHABLE when it doesn't go on; as all
   *   commands; what `look` throws
   */
  holdStill<T>(look: (process: QemuProcess) => Promise<T>): Promise<{ result: T; blackoutMs: number }>
  /** @throws VmError when the VM was stopped meanwhile, or can't be reached */
  requireRunning(): Promise<void>
}
