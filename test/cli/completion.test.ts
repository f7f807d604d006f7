import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { drover } from '../support/drover.ts'

const run = promisify(execFile)

/** What bash offers with the cursor in the last of the words. */
async function offered(words: readonly string[]): Promise<string[]> {
  const { stdout: script } = await drover(['completion', 'bash'])
  const probe = `${script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _drover; printf '%s\\n' "\${COMPREPLY[@]}"`
  const { stdout } = await run('bash', ['-c', probe, 'bash', ...words])
  return stdout.trim().split('\n')
}

test.each([
  [['drover', 'templ'], ['template']],
  [['drover', '--json', 'template', 'c'], ['create']],
  [['drover', 'mesh', 'r'], ['remove']],
  [['drover', 'vm', 'stop', 'web-1', '--f'], ['--force']],
  [['drover', 'completion', ''], expect.arrayContaining(['bash', 'zsh', 'fish'])],
  [['drover', 'migration', 'resolve', '--o'], ['--owner']],
])('bash completes %j', async (words, expected) => {
  expect(await offered(words)).toEqual(expected)
})

test.each(['zsh', 'fish'])('%s gets every command', async (shell) => {
  const { stdout, code } = await drover(['completion', shell])
  expect(code).toBe(0)
  for (const word of ['template', 'pull', 'console', 'resolve', 'max-blackout'])
    expect(stdout).toContain(word)
})
