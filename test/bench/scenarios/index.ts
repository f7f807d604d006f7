import type { Case } from '../case.ts'
import { ONE_CLONE } from './one-clone.ts'

/** All that `npm run bench` measures. Cases of one setting follow each other, so that it is made once. */
export const CASES: readonly Case[] = [...ONE_CLONE]
