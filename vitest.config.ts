import { configDefaults, defineConfig } from 'vitest/config'

/** One test may boot a guest under TCG and move it: 60 s is slow there, not stuck. */
const VM_TEST_TIMEOUT_MS = 180_000
const UNIT_TEST_TIMEOUT_MS = 15_000

/** Waits for what takes its time: `npm run test:long`. */
const LONG = {
  test: {
    name: 'long',
    include: ['test/long/**/*.test.ts'],
    fileParallelism: false,
    testTimeout: VM_TEST_TIMEOUT_MS,
    hookTimeout: VM_TEST_TIMEOUT_MS,
  },
}

export default defineConfig({
  test: {
    projects: [
      ...(process.env.DROVER_TEST_LONG === undefined ? [] : [LONG]),
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [...configDefaults.exclude, 'test/vm/**', 'test/long/**'],
          testTimeout: UNIT_TEST_TIMEOUT_MS,
          hookTimeout: UNIT_TEST_TIMEOUT_MS,
        },
      },
      {
        test: {
          name: 'vm',
          include: ['test/vm/**/*.test.ts'],
          // A file keeps both cores of a small machine busy with its guests, and measures times.
          fileParallelism: false,
          // After the unit tests, not among them.
          sequence: { groupOrder: 1 },
          testTimeout: VM_TEST_TIMEOUT_MS,
          hookTimeout: VM_TEST_TIMEOUT_MS,
        },
      },
    ],
  },
})
