import { configDefaults, defineConfig } from 'vitest/config'

/** One test may boot a guest under TCG and move it: 60 s is slow there, not stuck. */
const VM_TEST_TIMEOUT_MS = 180_000
const UNIT_TEST_TIMEOUT_MS = 15_000

/** What is waited for comes late on a busy machine; vitest's own 1 s is for an idle one. */
const VM_POLL_TIMEOUT_MS = 30_000
const UNIT_POLL_TIMEOUT_MS = 5_000

const VM = {
  testTimeout: VM_TEST_TIMEOUT_MS,
  hookTimeout: VM_TEST_TIMEOUT_MS,
  expect: { poll: { timeout: VM_POLL_TIMEOUT_MS } },
}

/** Waits for what takes its time: `npm run test:long`. */
const LONG = {
  test: {
    name: 'long',
    include: ['test/long/**/*.test.ts'],
    fileParallelism: false,
    ...VM,
  },
}

/** Measure times, and keep both cores of a small machine busy for it: one after another. */
const TIMED = ['move-idle', 'move-load', 'move-converges', 'vm-follows-client'].map(
  (name) => `test/vm/${name}.test.ts`,
)

/** Much is waited for: fewer files at a time, and vitest's own choice is one on two cores, would leave these idle for half of it. */
const WORKERS = 3

export default defineConfig({
  test: {
    // The groups run one after another.
    projects: [
      ...(process.env.DROVER_TEST_LONG === undefined ? [] : [LONG]),
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [...configDefaults.exclude, 'test/vm/**', 'test/long/**'],
          maxWorkers: WORKERS,
          testTimeout: UNIT_TEST_TIMEOUT_MS,
          hookTimeout: UNIT_TEST_TIMEOUT_MS,
          expect: { poll: { timeout: UNIT_POLL_TIMEOUT_MS } },
        },
      },
      {
        test: {
          ...VM,
          name: 'vm',
          include: ['test/vm/**/*.test.ts'],
          exclude: [...configDefaults.exclude, ...TIMED],
          maxWorkers: WORKERS,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: { ...VM, name: 'timed', include: TIMED, fileParallelism: false, sequence: { groupOrder: 2 } },
      },
    ],
  },
})
