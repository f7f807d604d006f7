import { expect, test } from 'vitest'
import {
  type DestinationEvent,
  destinationHandover,
  type SourceEvent,
  sourceHandover,
} from '../../src/migration/handover.ts'

test('the way of a move that succeeds', () => {
  const source = sourceHandover('copying')
  const destination = destinationHandover()
  expect(source.on('stopped')).toBeNull()
  expect(source.on('finish-sent')).toBe('journal-doubt')
  expect(destination.on('loaded')).toBe('send-ready')
  expect(source.on('ready')).toBe('send-grant')
  expect(destination.on('grant')).toBe('journal-grant')
  expect(destination.on('journaled')).toBe('run')
  expect(source.on('running')).toBe('leave')
  expect([source.state, destination.state]).toEqual(['left', 'owner'])
})

/** Every sequence of events up to a length, as far as the machine takes it; calls `visit` after each step taken. */
function explore<E extends string>(
  make: () => { state: string; on(event: E): string | null },
  events: readonly E[],
  depth: number,
  visit: (path: E[], states: string[], actions: (string | null)[]) => void,
): number {
  let steps = 0
  const walk = (path: E[]) => {
    if (path.length === depth) return
    for (const event of events) {
      const machine = make()
      const states = [machine.state]
      const actions: (string | null)[] = []
      try {
        for (const step of [...path, event]) {
          actions.push(machine.on(step))
          states.push(machine.state)
        }
      } catch {
        continue
      }
      steps++
      visit([...path, event], states, actions)
      walk([...path, event])
    }
  }
  walk([])
  return steps
}

test('a source that may have sent its Grant takes the VM back only on the word that it was refused', () => {
  const events: SourceEvent[] = [
    'stopped',
    'finish-sent',
    'ready',
    'running',
    'failed',
    'verdict-granted',
    'verdict-refused',
  ]
  const steps = explore(
    () => sourceHandover('copying'),
    events,
    7,
    (path, states, actions) => {
      const granted = actions.indexOf('send-grant')
      const stayed = actions.lastIndexOf('stay')
      if (granted >= 0 && stayed > granted) expect(path[stayed]).toBe('verdict-refused')
      if (granted >= 0) expect(actions.slice(0, granted)).toContain('journal-doubt')
      const left = actions.indexOf('leave')
      if (left >= 0) expect(['running', 'verdict-granted']).toContain(path[left])
      expect(actions.includes('leave') && actions.includes('stay')).toBe(false)
      if (states.at(-1) === 'stayed') expect(actions).toContain('stay')
    },
  )
  expect(steps).toBeGreaterThan(50)
})

test('a destination runs only what it journaled, and nothing that it gave up', () => {
  const events: DestinationEvent[] = ['loaded', 'grant', 'journaled', 'failed', 'asked']
  const steps = explore(destinationHandover, events, 7, (path, _, actions) => {
    const run = actions.indexOf('run')
    if (run >= 0) {
      expect(path[run]).toBe('journaled')
      expect(actions.slice(0, run)).toContain('journal-grant')
      expect(actions.slice(run)).not.toContain('discard')
      expect(actions.slice(run)).not.toContain('refuse')
    }
    const ended = actions.findIndex((action) => action === 'discard' || action === 'refuse')
    if (ended >= 0) expect(actions.slice(ended)).not.toContain('run')
  })
  expect(steps).toBeGreaterThan(50)
})

test.each<[SourceEvent[], SourceEvent]>([
  [[], 'ready'],
  [['stopped'], 'ready'],
  [['stopped', 'finish-sent'], 'running'],
  [['failed'], 'ready'],
  [['stopped', 'finish-sent', 'ready', 'running'], 'verdict-refused'],
])('after %j, %s is a violation', (path, event) => {
  const source = sourceHandover('copying')
  for (const step of path) source.on(step)
  expect(() => source.on(event)).toThrow(expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }))
})
