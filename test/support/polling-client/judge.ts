import type { PollAnswer } from './client.ts'

/**
 * The longest time without an answer, in ms, from the first answer to `untilMs`.
 *
 * @param answers - in the order in which they came, at least one
 */
export function longestGapMs(answers: readonly PollAnswer[], untilMs: number): number {
  const times = [...answers.map(({ answeredAtMs }) => answeredAtMs), untilMs]
  return times.slice(1).reduce((longest, atMs, index) => Math.max(longest, atMs - times[index]!), 0)
}

/**
 * Answers with a counter below one that was known before they were asked for.
 * Polls overlap: of two under way at once either may come first.
 *
 * @param answers - in the order in which they came
 */
export function answersOfThePast(answers: readonly PollAnswer[]): PollAnswer[] {
  return answers.filter(({ askedAtMs, count }) =>
    answers.some((earlier) => earlier.answeredAtMs < askedAtMs && earlier.count > count),
  )
}

/** Nodes that answered, each as often as the VM came to it. */
export function nodesInTurn(answers: readonly PollAnswer[]): string[] {
  return answers.map(({ node }) => node).filter((node, index, nodes) => node !== nodes[index - 1])
}
