/**
 * A vitest reporter for scripts/test: lists what was skipped and why, and writes "PASSED FAILED SKIPPED" to
 * the file named by DROVER_TEST_TALLY. vitest's own JSON report lacks the reasons.
 */
import { writeFileSync } from 'node:fs'
import type { Reporter, TestModule } from 'vitest/node'

export default class TallyReporter implements Reporter {
  onTestRunEnd(testModules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    let passed = 0
    let failed = unhandledErrors.length
    let skipped = 0
    for (const testModule of testModules) {
      // A file that can't be loaded, or a hook that fails, has no failed test to show for it.
      const suites = [testModule, ...testModule.children.allSuites()]
      failed += suites.filter((suite) => suite.errors().length > 0).length
      for (const test of testModule.children.allTests()) {
        const result = test.result()
        if (result.state === 'passed') passed++
        else if (result.state === 'failed') failed++
        else {
          skipped++
          const reason = (result.state === 'skipped' && result.note) || 'no reason given'
          console.log(`skipped: ${testModule.relativeModuleId} > ${test.fullName}: ${reason}`)
        }
      }
    }
    const path = process.env.DROVER_TEST_TALLY
    if (path !== undefined) writeFileSync(path, `${passed} ${failed} ${skipped}\n`)
  }
}
