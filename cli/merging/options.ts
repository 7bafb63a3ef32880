/** Options that the commands over adapters share, and readers of their values. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import {
  FACTOR_DTYPES,
  type FactorDType,
  factorDTypeNames,
  type LayerFormat,
  layerFormats,
  type StrengthOptions,
  type TargetOptions,
} from '../../src/index.ts';
import { nearestName } from '../../src/nearest-name.ts';
import { number, numbers, option, outputOptions, text, texts } from '../options.ts';

export type Args = Readonly<Record<string, unknown>>;

const RESULT = 'Result:';
const INPUT = 'Inputs:';

/** A switch. */
export const flag = (group: string, describe: string, value = false): Options => ({
  type: 'boolean',
  default: value,
  group,
  describe,
});

/** Where a result goes. */
export const targetOptions = {
  out: option(RESULT, 'File to write; for peft a folder', { demandOption: true }),
  drop: flag(RESULT, 'Leave out what the target cannot hold, instead of stopping'),
  force: flag(RESULT, 'Replace what stands there'),
  metadata: flag(RESULT, 'Keep metadata and write the recipe; --no-metadata leaves both out', true),
  json: { ...outputOptions.json, group: RESULT },
  quiet: { ...outputOptions.quiet, group: RESULT },
} as const satisfies Record<string, Options>;

export const formatOption = option(
  RESULT,
  `Naming: ${layerFormats.join(', ')} [default: kohya; own for families not drawn here]`,
);
export const dtypeOption = option(RESULT, `Numbers: ${factorDTypeNames.join(', ')}`);
export const baseOption = option(
  INPUT,
  'Model the adapters were trained on; (IA)³, DoRA and Custom Diffusion need it',
);

/** How much of each input. */
export const strengthOptions = {
  strength: option(INPUT, 'One number per file, or one for all; may be negative [default: 1]', {
    array: true,
  }),
  'text-strength': option(INPUT, 'The same for text encoders [default: as --strength]', { array: true }),
  blocks: option(
    INPUT,
    'Per file: 17 numbers joined by commas (BASE, IN01 … OUT11; 26 for all blocks, SDXL 12 or 20, Flux 61), a preset (INS, MIDD, OUTALL, …), or 1',
    { array: true },
  ),
} as const satisfies Record<string, Options>;

/** @throws {UsageError} if a name is not one of `known` */
export function choice<T extends string>(name: string, value: string, known: readonly T[]): T {
  const found = known.find((candidate) => candidate === value);
  if (found !== undefined) return found;
  const nearest = nearestName(value, known);
  throw new UsageError(
    `--${name}: unknown "${value}"; ${nearest === null ? `expected ${known.join(', ')}` : `did you mean "${nearest}"?`}`,
  );
}

export function targetOf(args: Args): TargetOptions {
  return {
    out: text(args, 'out')!,
    drop: args.drop === true,
    force: args.force === true,
    noMetadata: args.metadata === false,
  };
}

export function formatOf(args: Args): LayerFormat | undefined {
  const value = text(args, 'format');
  return value === undefined ? undefined : choice('format', value, layerFormats);
}

/** `{ dtype }` if given. */
export function dtypeOf(args: Args): { dtype?: FactorDType } {
  const value = text(args, 'dtype');
  return value === undefined ? {} : { dtype: FACTOR_DTYPES[choice('dtype', value, factorDTypeNames)] };
}

/** `{ base }` if given. */
export function baseOf(args: Args): { base?: string } {
  const base = text(args, 'base');
  return base === undefined ? {} : { base };
}

/** A number option, if given. */
export function figure(args: Args, name: string): number | undefined {
  const value = text(args, name);
  return value === undefined ? undefined : number(`--${name}`, value);
}

/** Files with their strengths and block weights. @throws {UsageError} if the counts do not fit */
export function strengthsOf(args: Args, files: readonly string[]): StrengthOptions[] {
  const spread = <T>(name: string, values: readonly T[]): readonly (T | undefined)[] => {
    if (values.length > 1 && values.length !== files.length) {
      throw new UsageError(`--${name}: expected ${files.length} values or one for all, got ${values.length}`);
    }
    return files.map((_, i) => values[values.length > 1 ? i : 0]);
  };
  const strengths = spread('strength', numbers(args, 'strength'));
  const textStrengths = spread('text-strength', numbers(args, 'text-strength'));
  const blocks = spread('blocks', texts(args, 'blocks'));
  return files.map((file, i) => ({
    path: file,
    strength: strengths[i] ?? 1,
    textEncoderStrength: textStrengths[i] ?? null,
    blockWeights: blocks[i] === undefined || blocks[i] === '1' ? null : blocks[i],
  }));
}
