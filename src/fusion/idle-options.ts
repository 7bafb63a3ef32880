/** Options that somebody gave and that change nothing beside the others: said rather than passed over. */
import { isGuided } from '../sampling/guidance.ts';
import type { FusionOptions } from './options.ts';
import { isDenoised, methodFor, preserves } from './plan.ts';
import { fusionMethod, type MethodParameter } from './solvers/method.ts';

/** What can be given: an option, or the captions beside them. */
export type GivenOption = keyof FusionOptions | 'preserveCaptions';

interface IdleRule {
  readonly option: GivenOption;
  readonly isIdle: (options: FusionOptions) => boolean;
  readonly note: string;
}

const isRead = (options: FusionOptions, parameter: MethodParameter): boolean =>
  options.stages.some((stage) =>
    fusionMethod(methodFor(options.method, stage)).parameters.includes(parameter),
  );
const isUndenoised = (options: FusionOptions): boolean => !isDenoised(options);

const RULES: readonly IdleRule[] = [
  {
    option: 'contrast',
    isIdle: ({ guidanceScale }) => !isGuided(guidanceScale),
    note: '`contrast` has no effect without guidance above 1: there is no empty prompt to weigh against',
  },
  {
    option: 'iterations',
    isIdle: (options) => !isRead(options, 'iterations'),
    note: '`iterations` has no effect: the chosen method does not count any, lbfgs does',
  },
  {
    option: 'ridge',
    isIdle: (options) => !isRead(options, 'ridge'),
    note: '`ridge` has no effect: the chosen method does not read it',
  },
  {
    option: 'preserve',
    isIdle: (options) => !isRead(options, 'preserve'),
    note: '`preserve` has no effect: the chosen method does not read it',
  },
  {
    option: 'preserveCaptions',
    isIdle: (options) => !options.stages.some((stage) => preserves(options, stage)),
    note: '`preserveCaptions` has no effect: nothing is preserved in the stages that are fused',
  },
  {
    option: 'rankShare',
    isIdle: ({ rank }) => rank !== 'auto',
    note: '`rankShare` has no effect without `rank: auto`',
  },
  {
    option: 'steps',
    isIdle: isUndenoised,
    note: '`steps` has no effect: the spatial stage, which runs them, is not fused',
  },
  {
    option: 'runs',
    isIdle: isUndenoised,
    note: '`runs` has no effect: the spatial stage, which counts them, is not fused',
  },
  {
    option: 'guidanceScale',
    isIdle: isUndenoised,
    note: '`guidanceScale` has no effect: the spatial stage, which is guided, is not fused',
  },
];

/**
 * One note for each option that has no effect.
 * @param options all of them, defaults in place
 * @param given   those that somebody gave
 */
export function idleOptionNotes(options: FusionOptions, given: Iterable<GivenOption>): string[] {
  const own = new Set(given);
  return RULES.filter(({ option, isIdle }) => own.has(option) && isIdle(options)).map(({ note }) => note);
}
