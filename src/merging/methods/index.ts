/**
 * The ways to merge the changes of several adapters in one layer, as one table: name, title, idea, source, parameters. The
 * command line, recipes and documentation read it.
 */
import { UsageError } from '../../errors.ts';
import { nearestName } from '../../nearest-name.ts';
import type { MergeMethod } from '../method.ts';
import { cat } from './cat.ts';
import { dareLinear, dareLinearSvd, dareTies, dareTiesSvd } from './dare.ts';
import { knots } from './knots.ts';
import { linear } from './linear.ts';
import { magnitudePrune, magnitudePruneSvd } from './magnitude-prune.ts';
import { nullSpace } from './null-space.ts';
import { svdMerge } from './svd.ts';
import { ties, tiesSvd } from './ties.ts';

/** All methods by name. */
export const mergeMethods = {
  cat,
  svd: svdMerge,
  linear,
  ties,
  'ties-svd': tiesSvd,
  'dare-linear': dareLinear,
  'dare-linear-svd': dareLinearSvd,
  'dare-ties': dareTies,
  'dare-ties-svd': dareTiesSvd,
  'magnitude-prune': magnitudePrune,
  'magnitude-prune-svd': magnitudePruneSvd,
  knots,
  'null-space': nullSpace,
} as const satisfies Readonly<Record<string, MergeMethod>>;

export type MergeMethodName = keyof typeof mergeMethods;

export const mergeMethodNames = Object.keys(mergeMethods) as readonly MergeMethodName[];

/** @throws {UsageError} naming the nearest method, if there is none of this name */
export function mergeMethod(name: string): MergeMethod {
  if (Object.hasOwn(mergeMethods, name)) return mergeMethods[name as MergeMethodName];
  const nearest = nearestName(name, mergeMethodNames);
  throw new UsageError(
    `unknown merge method "${name}"; ${nearest === null ? `expected one of ${mergeMethodNames.join(', ')}` : `did you mean "${nearest}"?`}`,
  );
}
