/**
 * Why a considered move isn't made. In the order in which they are looked at:
 * first what is wrong with the VM, then with the node, then with the gain, and
 * last what is only a matter of turns.
 */
export type StayReason =
  /** Its owner wants it where it is. */
  | { code: 'pinned' }
  /** Paused, on its way, in doubt or stopped. */
  | { code: 'not-running'; state: string }
  | { code: 'too-young'; remainingMs: number }
  | { code: 'in-cool-down'; remainingMs: number }
  /** A move of this VM failed lately. */
  | { code: 'vm-backs-off'; remainingMs: number }
  /** This node reaches none of the VM's clients, or it has none: nothing is known. */
  | { code: 'not-measured' }
  | { code: 'takes-no-vms' }
  | { code: 'cannot-run-it' }
  | { code: 'no-room'; neededBytes: number; availableBytes: number }
  /** A move to that node failed lately, or one of this VM to it. */
  | { code: 'destination-backs-off'; remainingMs: number }
  /** Below what the clients would notice. */
  | { code: 'saves-too-little'; neededMs: number }
  /** Seen, but not in enough probes in a row. */
  | { code: 'not-held'; samples: number; neededSamples: number }
  | { code: 'costs-more' }
  /** Another VM, or another node for this VM, gains more: that one comes first. */
  | { code: 'another-gains-more' }
  /** A VM is on its way from this node. */
  | { code: 'node-busy' }
  | { code: 'destination-busy' }
  | { code: 'budget-spent'; remainingMs: number }
  /** Left out at random: nodes that see the same don't act at the same moment. */
  | { code: 'next-round' }

export type StayCode = StayReason['code']

export type Verdict = { kind: 'move' } | { kind: 'stay'; reason: StayReason }
