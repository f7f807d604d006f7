import { expect, test } from 'vitest'
import { rankDestinations } from '../../src/placement/index.ts'
import { candidateNode, HERE, MIB, steadySamples, vmSituation } from './situations.ts'

test('a VM that has to leave goes where it is cheapest to send and its clients are near', () => {
  const samples = steadySamples({ [HERE]: 20, near: 30, far: 300 })
  const { ranked, unfit } = rankDestinations(vmSituation({ samples }), [
    candidateNode('far'),
    candidateNode('drained', { takesVms: false }),
    candidateNode('near'),
    candidateNode('full', { availableBytes: 10 * MIB }),
  ])
  expect(ranked.map(({ peerId, latencyMs }) => [peerId, latencyMs])).toEqual([
    ['near', 30],
    ['far', 300],
  ])
  expect(unfit.map(({ peerId, reason }) => [peerId, reason.code])).toEqual([
    ['drained', 'takes-no-vms'],
    ['full', 'no-room'],
  ])
})

test('a node that was not measured counts like the worst one that was', () => {
  const samples = steadySamples({ [HERE]: 20, near: 30, far: 300 })
  const { ranked } = rankDestinations(vmSituation({ samples }), [
    candidateNode('unknown', { availableBytes: 8192 * MIB }),
    candidateNode('far'),
    candidateNode('near'),
  ])
  expect(ranked.map(({ peerId, latencyMs }) => [peerId, latencyMs])).toEqual([
    ['near', 30],
    ['unknown', null],
    ['far', 300],
  ])
})

test('without clients the template, the link, the memory and the load decide, in ms·s', () => {
  const { ranked } = rankDestinations(vmSituation(), [
    candidateNode('loaded', { load: 3 }),
    candidateNode('lacks', { templates: new Set() }),
    candidateNode('slow', { bandwidthBytesPerSecond: 1_250_000 }),
    candidateNode('small', { availableBytes: 200 * MIB }),
    candidateNode('best'),
  ])
  expect(ranked.map(({ peerId }) => peerId)).toEqual(['best', 'small', 'slow', 'lacks', 'loaded'])
})
