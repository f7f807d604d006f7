import type { Case } from '../case.ts'
import { FAST_WRITER } from './fast-writer.ts'
import { HERD } from './herd.ts'
import { LARGE } from './large.ts'
import { FAR_CLONE, ONE_CLONE } from './one-clone.ts'
import { TEMPLATE_MISSING } from './template-missing.ts'
import { WAY_BACK } from './way-back.ts'

/** All that `npm run bench` measures. Cases of one setting follow each other, so that it is made once. */
export const CASES: readonly Case[] = [
  ...ONE_CLONE,
  HERD,
  ...TEMPLATE_MISSING,
  WAY_BACK,
  FAST_WRITER,
  ...FAR_CLONE,
  LARGE,
]
