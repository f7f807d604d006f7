import type { Totals } from './ledger.ts'

/** Pixels. */
const [WIDTH, LINES_HEIGHT, BAR_HEIGHT, MARGIN] = [960, 320, 22, 60]
const LEGEND_WIDTH = 180
const GRID_LINES = 4
const COLOURS = ['#999999', '#d95f02', '#7570b3', '#1b9e77', '#222222'] as const

/**
 * An SVG of a comparison: above, what users had in each slice, a line per policy;
 * below, the bytes that its moves sent, a bar per policy.
 */
export function plotSvg(title: string, policies: readonly Totals[]): string {
  const height = MARGIN * 2 + LINES_HEIGHT + policies.length * BAR_HEIGHT + MARGIN / 2
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" font-family="sans-serif" font-size="12">`,
    '<rect width="100%" height="100%" fill="white"/>',
    text(MARGIN, MARGIN / 2, title, 'font-weight="bold"'),
    ...latencyLines(policies),
    ...byteBars(policies, MARGIN * 2 + LINES_HEIGHT),
    '</svg>',
  ]
  return `${parts.join('\n')}\n`
}

function latencyLines(policies: readonly Totals[]): string[] {
  const right = WIDTH - LEGEND_WIDTH
  const highestMs = Math.max(...policies.flatMap(({ sliceLatencyMs }) => sliceLatencyMs))
  const y = (ms: number) => MARGIN + LINES_HEIGHT * (1 - ms / highestMs)
  const parts: string[] = []
  for (let line = 0; line <= GRID_LINES; line++) {
    const ms = (highestMs * line) / GRID_LINES
    parts.push(`<path d="M${MARGIN} ${y(ms).toFixed(1)}H${right}" stroke="#dddddd"/>`)
    parts.push(text(MARGIN - 8, y(ms) + 4, `${Math.round(ms)} ms`, 'text-anchor="end"'))
  }
  for (const [index, { policy, sliceLatencyMs }] of policies.entries()) {
    const step = (right - MARGIN) / Math.max(1, sliceLatencyMs.length - 1)
    const points = sliceLatencyMs.map(
      (ms, slice) => `${(MARGIN + slice * step).toFixed(1)},${y(ms).toFixed(1)}`,
    )
    const colour = colourOf(index)
    parts.push(`<polyline points="${points.join(' ')}" fill="none" stroke="${colour}" stroke-width="1.5"/>`)
    parts.push(text(right + 12, MARGIN + 18 * index + 8, policy, `fill="${colour}"`))
  }
  return parts
}

function byteBars(policies: readonly Totals[], top: number): string[] {
  const [left, right] = [MARGIN + LEGEND_WIDTH, WIDTH - LEGEND_WIDTH]
  const most = Math.max(1, ...policies.map(({ sentBytes }) => sentBytes))
  return policies.flatMap(({ policy, sentBytes }, index) => {
    const y = top + index * BAR_HEIGHT
    const width = ((right - left) * sentBytes) / most
    return [
      text(left - 8, y + 13, policy, 'text-anchor="end"'),
      `<rect x="${left}" y="${y}" width="${width.toFixed(1)}" height="${BAR_HEIGHT - 6}" fill="${colourOf(index)}"/>`,
      text(left + width + 6, y + 13, `${(sentBytes / 1024 ** 3).toFixed(1)} GiB sent`),
    ]
  })
}

function colourOf(index: number): string {
  return COLOURS[index % COLOURS.length]!
}

function text(x: number, y: number, words: string, attributes = ''): string {
  const escaped = words.replace(/&/g, '&amp;').replace(/</g, '&lt;')
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${escaped}</text>`
}
