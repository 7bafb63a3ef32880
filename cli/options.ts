/** Option groups that commands share, and readers of their values. */

import type { Options } from 'yargs';
import { UsageError } from '../src/errors.ts';
import {
  type CheckpointOptions,
  type ChosenPerStage,
  PREDICTION_TYPES,
  STAGES,
  type Stage,
} from '../src/index.ts';
import { nearestName } from '../src/nearest-name.ts';

/** Which model to work on. */
export const baseOptions = {
  base: {
    type: 'string',
    requiresArg: true,
    describe: 'Base model: a diffusers folder or a single-file checkpoint [default: the shipped miniature]',
  },
  'base-config': {
    type: 'string',
    requiresArg: true,
    describe: 'Diffusers folder with what --base lacks: tokenizers, configs, text encoders',
  },
  prediction: {
    choices: PREDICTION_TYPES,
    requiresArg: true,
    describe: 'What the base predicts [default: as its files say]',
  },
} as const satisfies Record<string, Options>;

/** The options that say which base it is, in a group of a command's help. */
export function baseOptionsIn(group: string): Record<keyof typeof baseOptions, Options> {
  const entries = Object.entries<Options>(baseOptions).map(([name, option]) => [name, { ...option, group }]);
  return Object.fromEntries(entries) as Record<keyof typeof baseOptions, Options>;
}

/** What is said of a base besides its place. */
export function readBaseOptions(args: Readonly<Record<string, unknown>>): CheckpointOptions {
  return {
    configFolder: text(args, 'base-config'),
    prediction: text(args, 'prediction') as CheckpointOptions['prediction'],
  };
}

/** How results are said. */
export const outputOptions = {
  json: { type: 'boolean', default: false, describe: 'Print one JSON document instead of tables' },
  quiet: { type: 'boolean', default: false, describe: 'No progress on standard error' },
} as const;

/** An option with a value, in a group of a command's help. */
export const option = (group: string, describe: string, more: Options = {}): Options => ({
  type: 'string',
  requiresArg: true,
  group,
  describe,
  ...more,
});

/** Options of every command. */
export const globalOptions = {
  verbose: { type: 'boolean', default: false, describe: 'Show the stack of an error' },
  mmap: {
    type: 'boolean',
    describe:
      'Map weights from their files; --no-mmap (or EDLORA_NO_MMAP=1) reads them into memory: for files on shares that may vanish',
  },
  lean: {
    type: 'boolean',
    describe:
      'Keep weights of 16-bit files as they are and widen them in every run (or EDLORA_LEAN=1): half of the memory, a little slower',
  },
  threads: {
    type: 'string',
    requiresArg: true,
    describe: 'CPU threads of one operator [default: one per core]',
  },
  color: { type: 'boolean', describe: 'Colours; --no-color or NO_COLOR turns them off' },
} as const;

/** A string option's value, if given. */
export function text(args: Readonly<Record<string, unknown>>, name: string): string | undefined {
  const value = args[name];
  if (value === undefined) return undefined;
  if (typeof value !== 'string') throw new UsageError(`--${name}: expected one value`);
  return value;
}

/** An array option's values; empty if not given. */
export function texts(args: Readonly<Record<string, unknown>>, name: string): string[] {
  const value = args[name];
  return value === undefined ? [] : (value as unknown[]).map(String);
}

/** Numbers of an array option. @throws {UsageError} for what is none */
export function numbers(args: Readonly<Record<string, unknown>>, name: string): number[] {
  return texts(args, name).map((value) => number(`--${name}`, value));
}

/** @throws {UsageError} unless `value` is a finite number */
export function number(where: string, value: string): number {
  const result = value.trim() === '' ? Number.NaN : Number(value);
  if (!Number.isFinite(result)) throw new UsageError(`${where}: expected a number, got "${value}"`);
  return result;
}

/**
 * `text=1e-2,cross=auto` over defaults, or one value for all stages.
 * @throws {UsageError} for unknown stages and for what is neither a number nor auto
 */
export function perStage(name: string, value: string, defaults: ChosenPerStage): ChosenPerStage {
  const amountOf = (where: string, text: string): number | 'auto' =>
    text.trim() === 'auto' ? 'auto' : number(where, text);
  if (!value.includes('=')) {
    const all = amountOf(`--${name}`, value);
    return { text: all, cross: all, spatial: all };
  }
  const result = { ...defaults };
  for (const pair of value.split(',')) {
    const [stage = '', amount = ''] = pair.split('=').map((part) => part.trim());
    result[stageNamed(name, stage)] = amountOf(`--${name} ${stage}`, amount);
  }
  return result;
}

/** `left=right` values of a repeatable option, in order. @throws {UsageError} where a side is missing */
export function pairs(name: string, values: readonly string[]): [left: string, right: string][] {
  return values.map((value) => {
    const at = value.indexOf('=');
    const [left, right] = [value.slice(0, Math.max(0, at)).trim(), value.slice(at + 1).trim()];
    if (left === '' || right === '') throw new UsageError(`--${name}: expected old=new, got "${value}"`);
    return [left, right];
  });
}

/** `text,cross` → stages, each once. @throws {UsageError} for unknown and repeated stages */
export function stages(name: string, value: string): Stage[] {
  const result: Stage[] = [];
  for (const part of value.split(',')) {
    const stage = stageNamed(name, part.trim());
    if (result.includes(stage)) throw new UsageError(`--${name}: ${stage} given twice`);
    result.push(stage);
  }
  return result;
}

function stageNamed(name: string, value: string): Stage {
  const known = STAGES.find((candidate) => candidate === value);
  if (known !== undefined) return known;
  const nearest = nearestName(value, STAGES);
  const hint = nearest === null ? `expected ${STAGES.join(', ')}` : `did you mean "${nearest}"?`;
  throw new UsageError(`--${name}: unknown stage "${value}"; ${hint}`);
}
