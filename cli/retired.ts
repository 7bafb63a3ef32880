/** Spellings of earlier versions. Each is refused, with the one that stands for it in every command now. */
import { UsageError } from '../src/errors.ts';

export interface RetiredSpelling {
  /** Verbs of the commands that had it. */
  readonly commands: readonly string[];
  /** Without its dashes. */
  readonly option: string;
  /** Where only one of its values is spelled otherwise now. */
  readonly value?: string;
  /** What to write instead, as it stands on a command line. */
  readonly now: string;
}

export const RETIRED: readonly RetiredSpelling[] = [
  { commands: ['fuse'], option: 'solver', now: '--method' },
  { commands: ['fuse'], option: 'stats', now: '--statistics' },
  { commands: ['fuse', 'collect'], option: 'size', now: '--width and --height' },
  { commands: ['fuse', 'train'], option: 'format', value: 'edlora', now: '--format ed-lora' },
  { commands: ['train'], option: 'dtype', value: 'F32', now: '--dtype fp32' },
  { commands: ['train'], option: 'dtype', value: 'F16', now: '--dtype fp16' },
  { commands: ['train'], option: 'dtype', value: 'BF16', now: '--dtype bf16' },
  { commands: ['train'], option: 'where', now: '--layers' },
  { commands: ['train'], option: 'text-where', now: '--text-layers' },
  { commands: ['sample'], option: 'concept', now: '--concepts' },
  { commands: ['sample', 'bake'], option: 'lora', now: '--loras' },
  { commands: ['sample'], option: 'embedding', now: '--embeddings' },
  { commands: ['eval'], option: 'samples', now: '--count' },
  { commands: ['eval'], option: 'mix', now: '--style-mix' },
];

/** @param line a command line from its verb on @throws {UsageError} naming what to write for an old spelling */
export function refuseRetired([verb = '', ...args]: readonly string[]): void {
  for (const [i, arg] of args.entries()) {
    if (arg === '--') return;
    const [, option, joined] = /^--([^=]+)(?:=(.*))?$/s.exec(arg) ?? [];
    if (option === undefined) continue;
    const value = joined ?? args[i + 1];
    const found = RETIRED.find(
      (old) =>
        old.commands.includes(verb) &&
        old.option === option &&
        (old.value === undefined || old.value === value),
    );
    if (found === undefined) continue;
    const written = found.value === undefined ? `--${option}` : `--${option} ${found.value}`;
    throw new UsageError(`${written} is written ${found.now} now`);
  }
}
