import type { Heard } from '../../../src/migration/grant.ts'
import { type DestinationEvent, EFFECT_STEPS, Handover } from '../../../src/migration/handover.ts'
import {
  advance,
  afterGuestStep,
  type Bounds,
  change,
  grantOf,
  heard,
  isTaken,
  type Machines,
  SOURCE,
  STRANGER,
  send,
  some,
  type World,
  withCandidate,
} from './world.ts'

function feedArrival(
  world: World,
  machines: Machines,
  index: number,
  event: DestinationEvent,
  said?: Heard,
): World | null {
  const arrival = world.destination.arrivals[index]!
  if (arrival.doing !== null) return null
  const grant = grantOf(arrival.move, arrival.place)
  const machine = new Handover(machines.destination, { state: arrival.state, peer: SOURCE, grant })
  try {
    const effect = machine.on(event, said)
    return change(world, ({ destination }) => {
      const changed = destination.arrivals[index]!
      changed.state = machine.state
      if (effect !== null) changed.doing = { effect, step: 0 }
    })
  } catch {
    return null
  }
}

/** All that may happen next at the destination, with its name. */
export function* destinationMoves(
  world: World,
  machines: Machines,
  bounds: Bounds,
): Generator<[string, World]> {
  const { destination, network } = world
  const canMishap = world.mishaps < bounds.mishaps
  if (!destination.up) {
    for (const record of destination.disk)
      yield [`destination starts on '${record}'`, startDestination(world, record)]
    return
  }
  if (canMishap) yield ['destination crashes', change(world, crashDestination)]
  for (const message of network) {
    const [word, of, at] = message.split(' ')
    const move = Number(of)
    if (word === 'offer' && destination.places < bounds.arrivals && !destination.disk.some(isTaken)) {
      yield [`destination hears ${message}`, change(world, (copy) => admit(copy, move))]
    }
    if (word === 'question') {
      const index = destination.arrivals.findIndex((arrival) => arrival.place === Number(at))
      if (index < 0)
        yield [`destination answers ${message}`, change(world, (copy) => answer(copy, move, Number(at)))]
      else yield* some(`destination hears ${message}`, feedArrival(world, machines, index, 'asked'))
    }
  }
  for (const [index, arrival] of destination.arrivals.entries()) {
    const name = `arrival ${arrival.place}`
    if (arrival.doing !== null) {
      yield* stepArrival(world, machines, index, canMishap)
      continue
    }
    if (network.includes(`finish ${arrival.move}`)) {
      yield* some(`${name} is loaded`, feedArrival(world, machines, index, 'loaded'))
    }
    for (const message of network) {
      const [word, of, at] = message.split(' ')
      if (word !== 'grant') continue
      const said = heard('GRANT', grantOf(Number(of), Number(at)), SOURCE)
      yield* some(`${name} hears ${message}`, feedArrival(world, machines, index, 'grant', said))
    }
    const own = grantOf(arrival.move, arrival.place)
    const astray = heard('GRANT', grantOf(arrival.move, arrival.place, 'another VM'), SOURCE)
    yield* some(
      `${name} hears a forged Grant`,
      feedArrival(world, machines, index, 'grant', heard('GRANT', own, STRANGER)),
    )
    yield* some(`${name} hears another Grant`, feedArrival(world, machines, index, 'grant', astray))
    yield* some(`${name} fails`, feedArrival(world, machines, index, 'failed'))
  }
}

function crashDestination(world: World): void {
  world.mishaps++
  world.destination.up = false
  // Guests live on, without anybody who knows them.
  for (const arrival of world.destination.arrivals) arrival.doing = null
}

function startDestination(world: World, record: string): World {
  return change(world, ({ destination }) => {
    destination.up = true
    destination.disk = [record]
    // QEMUs that no record knows are ended; the one of the record goes on.
    const [, move, place] = record.split(' ')
    destination.arrivals = isTaken(record)
      ? [{ place: Number(place), move: Number(move), state: 'owner', guest: 'running', doing: null }]
      : []
  })
}

function admit(world: World, move: number): void {
  const place = ++world.destination.places
  world.destination.arrivals.push({ place, move, state: 'receiving', guest: 'paused', doing: null })
  send(world, `accept ${move} ${place}`)
}

/** Of an arrival that is not in memory: what the journal says, or that there never will be one. */
function answer(world: World, move: number, place: number): void {
  const record = `taken ${move} ${place}`
  send(world, world.destination.disk.join() === record ? record : `refused ${move} ${place}`)
}

function* stepArrival(
  world: World,
  machines: Machines,
  index: number,
  canMishap: boolean,
): Generator<[string, World]> {
  const { doing, place, move } = world.destination.arrivals[index]!
  const { effect, step } = doing!
  const what = EFFECT_STEPS[effect][step]!
  const name = `arrival ${place}: ${effect} ${Object.values(what)}`
  if (!('journal' in what)) {
    yield [
      name,
      change(world, (copy) => {
        const arrival = copy.destination.arrivals[index]!
        if ('guest' in what) arrival.guest = afterGuestStep(arrival.guest, what)
        else send(copy, `${what.send} ${move} ${place}`)
        advance(arrival, effect)
        if (arrival.doing === null && effect === 'untake')
          arrival.state = machines.destination.untaking.undone![0]
      }),
    ]
    return
  }
  const record = what.journal === 'taken' ? `taken ${move} ${place}` : 'nothing'
  const begun = change(world, ({ destination }) => {
    destination.disk = withCandidate(destination.disk, record)
  })
  const done = change(begun, (copy) => {
    if (!machines.unsynced.includes(effect)) copy.destination.disk = [record]
    advance(copy.destination.arrivals[index]!, effect)
  })
  if (effect === 'take') yield* some(name, feedArrival(done, machines, index, 'journaled'))
  else yield [name, done]
  if (!canMishap) return
  yield [`${name} is cut short by a crash`, change(begun, crashDestination)]
  const failed = change(begun, (copy) => {
    copy.mishaps++
  })
  if (effect === 'untake') yield [`${name} fails`, failed]
  if (effect === 'take') {
    const idle = change(failed, ({ destination }) => {
      destination.arrivals[index]!.doing = null
    })
    yield* some(`${name} fails`, feedArrival(idle, machines, index, 'not-journaled'))
  }
}
