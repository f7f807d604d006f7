import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { isRunning, readProcessIdentity } from '../../src/qemu/index.ts'

test('a process, its double with another start time, and what is left of it', async () => {
  const child = spawn('sleep', ['60'])
  await once(child, 'spawn')
  const identity = await readProcessIdentity(child.pid!)
  expect(identity).toEqual({ pid: child.pid, startTimeTicks: expect.any(Number) })
  expect(await isRunning(identity!)).toBe(true)
  expect(await isRunning({ ...identity!, startTimeTicks: identity!.startTimeTicks - 1 })).toBe(false)
  child.kill('SIGKILL')
  await once(child, 'exit')
  expect(await isRunning(identity!)).toBe(false)
  expect(await readProcessIdentity(child.pid!)).toBeNull()
})

test('a name with spaces and parentheses does not shift the fields', async () => {
  const child = spawn(process.execPath, [
    '-e',
    'process.title = "a) S (1 2 3"; console.log(); setTimeout(() => {}, 60_000)',
  ])
  try {
    await once(child.stdout, 'data')
    const own = await readProcessIdentity(process.pid)
    const found = await readProcessIdentity(child.pid!)
    expect(found!.startTimeTicks).toBeGreaterThanOrEqual(own!.startTimeTicks)
  } finally {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
})

test('a zombie runs nothing', async () => {
  // The shell ignores its dead child: reading the answer is the only thing it still does.
  const shell = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 60'])
  try {
    const [pid] = await once(shell.stdout, 'data')
    await expect.poll(() => readProcessIdentity(Number(pid))).toBeNull()
  } finally {
    shell.kill('SIGKILL')
    await once(shell, 'exit')
  }
})
