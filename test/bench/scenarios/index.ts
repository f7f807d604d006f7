import type { Case } from '../case.ts'
import { FAR_CLONE, ONE_CLONE } from './one-clone.ts'

/** All that `npm run bench` measures. Cases of one setting follow each other, so that it is made once. */
export const CASES: readonly Case[] = [...ONE_CLONE, ...FAR_CLONE]
