/** What porting asks on the command line, alone or behind a fusion, and what it says meanwhile. */
import type { Options } from 'yargs';
import { checkPortOptions, PORT_DEFAULTS, type PortOptions, type PortProgress } from '../../src/index.ts';
import { withDefaults } from '../../src/settings.ts';
import { number, option, text } from '../options.ts';
import type { Io } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';

type Args = Readonly<Record<string, unknown>>;

/** @param group they stand in */
export const portOptionsIn = (group: string) =>
  ({
    'port-rank': option(group, `Rank of the ported keys and values [default: ${PORT_DEFAULTS.rank}]`),
    'port-steps': option(
      group,
      `Gradient steps on the embeddings before keys and values are solved for, at most; 0: the layers’ mean [default: ${PORT_DEFAULTS.steps}]`,
    ),
    'port-refine': option(
      group,
      `Steps of distillation after the solve, towards the concepts’ own models; 400 for two [default: ${PORT_DEFAULTS.refine}]`,
    ),
  }) as const satisfies Record<string, Options>;

/**
 * What was given, checked before any work.
 * @param more options that this command has beside them
 * @throws {UsageError} for what is no number, or out of range
 */
export function readPortOptions(args: Args, more: Partial<PortOptions> = {}): Partial<PortOptions> {
  const given = {
    ...more,
    rank: figure(args, 'port-rank'),
    steps: figure(args, 'port-steps'),
    refine: figure(args, 'port-refine'),
  };
  checkPortOptions(withDefaults(PORT_DEFAULTS, given));
  return given;
}

/** What was given although nothing is ported, one note each. */
export function idlePortNotes(args: Args): string[] {
  const given = Object.keys(portOptionsIn('')).filter((name) => args[name] !== undefined);
  return given.map((name) => `--${name} has no effect without --portable`);
}

/** Undefined where it was not given. @throws {UsageError} for what is no number */
export function figure(args: Args, name: string): number | undefined {
  return args[name] === undefined ? undefined : number(`--${name}`, text(args, name)!);
}

/** Progress on one line. */
export function portProgress(io: Io): { show: (progress: PortProgress) => void; finish: () => void } {
  const line = new ProgressLine(io, { unequalGroups: true });
  const activities = { words: 'embeddings, step', answers: 'cross-attention', refine: 'refining,' } as const;
  return {
    show: ({ action, done, total }) =>
      line.update({ activity: `porting: ${activities[action]} ${done} of ${total}`, done, total }, action),
    finish: () => line.finish(),
  };
}
