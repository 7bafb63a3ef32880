/** `edlora resize`: fewer factors per layer. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import { type RankRule, resizeFile } from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  type Args,
  baseOf,
  baseOption,
  dtypeOf,
  dtypeOption,
  figure,
  formatOf,
  formatOption,
  targetOf,
  targetOptions,
} from '../merging/options.ts';
import { cutSummary, printJson, sayResult, worstLayers } from '../merging/result.ts';
import { option, text } from '../options.ts';
import { ProgressLine } from '../terminal/progress.ts';

const RANK = 'Ranks:';
const rules = ['sv-ratio', 'sv-fro', 'sv-cumulative'] as const;

const options = {
  rank: option(RANK, 'The rank; with a rule below the largest allowed'),
  'conv-rank': option(RANK, 'The same for convolutions, 1 × 1 included [default: --rank]'),
  'sv-ratio': option(RANK, 'Keep singular values above the largest divided by this'),
  'sv-fro': option(RANK, 'Keep this share of the Frobenius norm, e.g. 0.9'),
  'sv-cumulative': option(RANK, 'Keep this share of the sum of singular values, e.g. 0.7'),
  base: baseOption,
  format: formatOption,
  dtype: dtypeOption,
  ...targetOptions,
} as const satisfies Record<string, Options>;

const smiley = 'fixtures/tiny-world/concepts/edlora_smiley.pth';

export const resizeCommand: Command = {
  usage: 'resize <file>',
  description: 'Cut a LoRA to a smaller rank, fixed or chosen layer by layer',
  options,
  positionals: { file: { type: 'string', describe: 'LoRA file, or PEFT folder' } },
  examples: [
    [`edlora resize ${smiley} --rank 2 --drop --out small.safetensors`, 'Rank 2 everywhere'],
    [
      `edlora resize ${smiley} --sv-fro 0.9 --drop --out small.safetensors`,
      'As many as each layer needs for 90 % of its norm',
    ],
    ['edlora resize style-sdxl.safetensors --rank 16 --out style-16.safetensors', 'SDXL, to rank 16'],
  ],
  run: runResize,
};

/** Without a rule's cap, as many as there are. */
const UNCAPPED = 1 << 20;

async function runResize(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const given = rules.filter((name) => args[name] !== undefined);
  const rank = figure(args, 'rank');
  if (given.length > 1) throw new UsageError(`expected one of --${rules.join(', --')}, got ${given.length}`);
  if (given.length === 0 && rank === undefined) {
    throw new UsageError(`resize: expected --rank, or one of --${rules.join(', --')}`);
  }
  const rule: RankRule =
    given.length === 0 ? { kind: 'rank' } : { kind: given[0]!, target: figure(args, given[0]!)! };
  const convRank = figure(args, 'conv-rank');
  const line = args.quiet === true ? null : new ProgressLine(io);
  const done = await resizeFile({
    ...targetOf(args),
    signal,
    threads,
    ...dtypeOf(args),
    ...baseOf(args),
    input: text(args, 'file')!,
    rule,
    rank: rank ?? UNCAPPED,
    convRank,
    format: formatOf(args),
    onProgress: ({ done: count, total, subject }) => {
      line?.update({ activity: `resizing ${subject}`, done: count, total }, 'resizing');
    },
  }).finally(() => line?.finish());
  if (args.json === true) return printJson(io, done);
  sayResult(io, done, [cutSummary(done.resized), worstLayers(io, done.resized).trimEnd()]);
}
