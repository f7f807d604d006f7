import type { Heard } from '../../../src/migration/grant.ts'
import { EFFECT_STEPS, Handover, type SourceEvent } from '../../../src/migration/handover.ts'
import {
  type Arrival,
  advance,
  afterGuestStep,
  type Bounds,
  change,
  DESTINATION,
  type Guest,
  grantOf,
  heard,
  isTaken,
  type Machines,
  STRANGER,
  send,
  some,
  type World,
  withCandidate,
} from './world.ts'

function feedSource(world: World, machines: Machines, event: SourceEvent, said?: Heard): World | null {
  const { move } = world.source
  if (move === null || world.source.doing !== null) return null
  const grant = grantOf(move.number, move.place)
  const machine = new Handover(machines.source, { state: move.state, peer: DESTINATION, grant })
  try {
    const effect = machine.on(event, said)
    return change(world, ({ source }) => {
      source.move!.state = machine.state
      if (effect !== null) source.doing = { effect, step: 0 }
    })
  } catch {
    return null
  }
}

/** All that may happen next at the source, with its name. */
export function* sourceMoves(world: World, machines: Machines, bounds: Bounds): Generator<[string, World]> {
  const { source, network } = world
  const canMishap = world.mishaps < bounds.mishaps
  if (!source.up) {
    for (const record of source.disk) yield [`source starts on '${record}'`, startSource(world, record)]
    return
  }
  if (canMishap) {
    yield ['source crashes', change(world, crashSource)]
    if (source.guest !== 'none') {
      yield [
        'source host crashes',
        change(world, (copy) => {
          crashSource(copy)
          copy.source.guest = 'none'
        }),
      ]
    }
  }
  if (source.doing !== null) {
    yield* stepSource(world, machines, canMishap)
    return
  }
  const { move } = source
  if (move === null) {
    if (world.moves < bounds.moves && source.guest === 'running' && source.disk.join() === 'ours') {
      yield [
        'a move begins',
        change(world, (copy) => {
          copy.moves++
          copy.source.disk = [`departing ${copy.moves}`]
          copy.source.move = { number: copy.moves, state: 'copying', place: null }
          send(copy, `offer ${copy.moves}`)
        }),
      ]
    }
    return
  }
  const { number, place } = move
  for (const message of network) {
    const [word, of, at] = message.split(' ')
    if (word === 'accept' && Number(of) === number && place === null && move.state === 'copying') {
      yield [
        `source hears ${message}`,
        change(world, (copy) => {
          copy.source.move!.place = Number(at)
        }),
      ]
    }
    // Whatever was ever said of any Grant may come now.
    if (word === 'taken' || word === 'refused') {
      const said = heard(word === 'taken' ? 'TAKEN' : 'REFUSED', grantOf(Number(of), Number(at)), DESTINATION)
      yield* some(`source hears ${message}`, feedSource(world, machines, word, said))
    }
    if (word === 'ready' && Number(of) === number && Number(at) === place) {
      yield* some(`source hears ${message}`, feedSource(world, machines, 'ready'))
    }
  }
  for (const event of ['taken', 'refused'] as const) {
    const word = event === 'taken' ? 'TAKEN' : 'REFUSED'
    const forged = heard(word, grantOf(number, place), STRANGER)
    const astray = heard(word, grantOf(number, place, 'another VM'), DESTINATION)
    yield* some(`source hears a forged ${event}`, feedSource(world, machines, event, forged))
    yield* some(`source hears ${event} of another Grant`, feedSource(world, machines, event, astray))
  }
  const stopped = place === null ? null : feedSource(world, machines, 'stopped')
  if (stopped !== null) {
    yield [
      'the guest is stopped',
      change(stopped, (copy) => {
        copy.source.guest = pausedOf(copy.source.guest)
      }),
    ]
  }
  const finished = feedSource(world, machines, 'finish-sent')
  if (finished !== null) yield ['Finish is sent', change(finished, (copy) => send(copy, `finish ${number}`))]
  yield* some('the move fails at the source', feedSource(world, machines, 'failed'))
  // A person who decides knows the truth.
  if (ownsForSure(world))
    yield* some('a person says: destination', feedSource(world, machines, 'decided-destination'))
  if (neverOwns(world, number))
    yield* some('a person says: source', feedSource(world, machines, 'decided-source'))
  if (move.state === 'in-doubt') {
    yield ['source asks', change(world, (copy) => send(copy, `question ${number} ${place}`))]
  }
  if (move.state === 'stayed' && source.disk.length > 1) {
    yield ['what the disk refused is written', change(world, (copy) => writeLate(copy, number))]
  } else if (move.state === 'stayed' || move.state === 'left') {
    yield [
      'the move is over at the source',
      change(world, (copy) => {
        copy.source.move = null
      }),
    ]
  }
}

function writeLate({ source }: World, move: number): void {
  source.disk = ['ours']
  source.resolved = [...source.resolved, move]
}

function pausedOf(guest: Guest): Guest {
  return guest === 'none' ? 'none' : 'paused'
}

function crashSource(world: World): void {
  world.mishaps++
  world.source.up = false
  world.source.move = null
  world.source.doing = null
}

function startSource(world: World, record: string): World {
  return change(world, ({ source }) => {
    source.up = true
    source.disk = [record]
    const [kind, move, place] = record.split(' ')
    if (kind === 'gone') source.guest = 'none'
    if (kind === 'ours' || kind === 'departing') {
      source.disk = ['ours']
      if (source.guest === 'paused') source.guest = 'running'
    }
    if (kind === 'in-doubt') source.move = { number: Number(move), state: 'in-doubt', place: Number(place) }
  })
}

function* stepSource(world: World, machines: Machines, canMishap: boolean): Generator<[string, World]> {
  const { effect, step } = world.source.doing!
  const what = EFFECT_STEPS[effect][step]!
  const name = `source: ${effect} ${Object.values(what)}`
  const { number, place } = world.source.move!
  if (!('journal' in what)) {
    yield [
      name,
      change(world, (copy) => {
        if ('guest' in what) copy.source.guest = afterGuestStep(copy.source.guest, what)
        else send(copy, `${what.send} ${number} ${place}`)
        advance(copy.source, effect)
      }),
    ]
    return
  }
  const record = { 'in-doubt': `in-doubt ${number} ${place}`, ours: 'ours', gone: 'gone' }[
    what.journal as 'ours'
  ]!
  const begun = change(world, ({ source }) => {
    source.disk = withCandidate(source.disk, record)
  })
  yield [
    name,
    change(begun, (copy) => {
      if (!machines.unsynced.includes(effect)) copy.source.disk = [record]
      advance(copy.source, effect)
      if (effect === 'stay' || effect === 'leave') copy.source.resolved = [...copy.source.resolved, number]
      // The answer that the write is done.
      if (effect === 'doubt') copy.source.move!.state = machines.source.finishing.journaled![0]
    }),
  ]
  if (!canMishap) return
  yield [`${name} is cut short by a crash`, change(begun, crashSource)]
  const failed = change(begun, (copy) => {
    copy.mishaps++
  })
  if (effect === 'doubt') {
    // Its failure is the move's.
    const idle = change(failed, ({ source }) => {
      source.doing = null
    })
    yield* some(`${name} fails`, feedSource(idle, machines, 'failed'))
  }
  if (effect === 'stay') yield [`${name} fails`, change(failed, (copy) => advance(copy.source, effect))]
  if (effect === 'leave') yield [`${name} fails`, failed]
}

function ownsForSure({ destination }: World): boolean {
  return destination.disk.length === 1 && isTaken(destination.disk[0]!)
}

function neverOwns({ destination }: World, move: number): boolean {
  const isOver = ({ state }: Arrival) => state === 'discarded'
  return (
    !destination.disk.some(isTaken) &&
    destination.arrivals.every((arrival) => arrival.move !== move || isOver(arrival))
  )
}
