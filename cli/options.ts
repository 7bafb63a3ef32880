/** Option groups that commands share, and readers of their values. */

import { nearestName } from '../src/concepts/nearest-name.ts';
import { UsageError } from '../src/errors.ts';
import { type PerStage, STAGES } from '../src/fusion/stage.ts';

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
    describe: 'Diffusers folder with the tokenizer (and configs) of a single-file --base',
  },
} as const;

/** How results are said. */
export const outputOptions = {
  json: { type: 'boolean', default: false, describe: 'Print one JSON document instead of tables' },
  quiet: { type: 'boolean', default: false, describe: 'No progress on standard error' },
} as const;

/** Options of every command. */
export const globalOptions = {
  verbose: { type: 'boolean', default: false, describe: 'Show the stack of an error' },
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
 * `text=1e-2,cross=0.1` over defaults, or one number for all stages.
 * @throws {UsageError} for unknown stages and for what is no number
 */
export function perStage(name: string, value: string, defaults: PerStage): PerStage {
  if (!value.includes('=')) {
    const all = number(`--${name}`, value);
    return { text: all, cross: all, spatial: all };
  }
  const result = { ...defaults };
  for (const pair of value.split(',')) {
    const [stage = '', amount = ''] = pair.split('=').map((part) => part.trim());
    const known = STAGES.find((candidate) => candidate === stage);
    if (known === undefined) {
      const nearest = nearestName(stage, STAGES);
      const hint = nearest === null ? `expected ${STAGES.join(', ')}` : `did you mean "${nearest}"?`;
      throw new UsageError(`--${name}: unknown stage "${stage}"; ${hint}`);
    }
    result[known] = number(`--${name} ${stage}`, amount);
  }
  return result;
}

/** `old=new` pairs. @throws {UsageError} for what is no pair */
export function pairs(name: string, values: readonly string[]): Map<string, string> {
  return new Map(
    values.map((value) => {
      const at = value.indexOf('=');
      if (at < 1 || at === value.length - 1)
        throw new UsageError(`--${name}: expected old=new, got "${value}"`);
      return [value.slice(0, at), value.slice(at + 1)];
    }),
  );
}
