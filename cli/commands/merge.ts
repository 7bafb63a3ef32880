/** `edlora merge`: several LoRA files as one, with correct arithmetic. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import { MERGE_DEFAULTS, mergeFiles, mergeMethodNames, mergeMethods } from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  type Args,
  baseOf,
  baseOption,
  choice,
  dtypeOf,
  dtypeOption,
  figure,
  formatOf,
  formatOption,
  strengthOptions,
  strengthsOf,
  targetOf,
  targetOptions,
} from '../merging/options.ts';
import { printJson, sayResult } from '../merging/result.ts';
import { option, text, texts } from '../options.ts';
import { ProgressLine } from '../terminal/progress.ts';

const METHOD = 'Method:';

const options = {
  ...strengthOptions,
  base: baseOption,
  method: option(METHOD, `One of ${mergeMethodNames.join(', ')}`, { default: 'cat' }),
  rank: option(
    METHOD,
    'Rank of the result, for methods that truncate [svd: all; others: the largest input’s]',
  ),
  density: option(METHOD, 'Share of numbers that pruning keeps', { default: String(MERGE_DEFAULTS.density) }),
  'majority-sign': option(METHOD, 'Election of signs: total or frequency', {
    default: MERGE_DEFAULTS.majoritySign,
  }),
  seed: option(METHOD, 'Of random choices', { default: '0' }),
  format: formatOption,
  dtype: dtypeOption,
  ...targetOptions,
} as const satisfies Record<string, Options>;

const concept = (name: string): string => `fixtures/tiny-world/concepts/edlora_${name}.pth`;

export const mergeCommand: Command = {
  usage: 'merge <files..>',
  description: 'Merge LoRA files of any naming, rank and dtype into one',
  options,
  positionals: { files: { type: 'string', describe: 'LoRA files, or PEFT folders' } },
  examples: [
    [
      `edlora merge ${concept('smiley')} ${concept('bullseye')} --strength 0.8 0.6 --format ed-lora --out merged.pth`,
      'Two concepts at their strengths, words included',
    ],
    [
      `edlora merge ${concept('smiley')} ${concept('checker')} --method svd --rank 4 --dtype fp16 --drop --out small.safetensors`,
      'The sum cut to rank 4, for A1111 and ComfyUI, without the layer-wise words',
    ],
    [
      `edlora merge ${concept('smiley')} ${concept('checker')} --blocks MIDD OUTALL --drop --out blocks.safetensors`,
      'Each with its own block weights',
    ],
    [
      'edlora merge style-sdxl.safetensors toy-sdxl.safetensors --strength 0.7 1 --out merged-sdxl.safetensors',
      'SDXL: both text encoders and the UNet',
    ],
  ],
  epilogue: [
    'Methods:',
    ...Object.entries(mergeMethods).map(([name, { idea }]) => `  ${name.padEnd(20)} ${idea}`),
  ].join('\n'),
  run: runMerge,
};

async function runMerge(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const files = texts(args, 'files');
  const rank = figure(args, 'rank');
  const seed = figure(args, 'seed')!;
  if (!Number.isSafeInteger(seed)) throw new UsageError(`--seed: expected a whole number, got ${seed}`);
  const line = args.quiet === true ? null : new ProgressLine(io);
  const result = await mergeFiles({
    ...targetOf(args),
    signal,
    threads,
    ...dtypeOf(args),
    ...baseOf(args),
    inputs: strengthsOf(args, files),
    format: formatOf(args),
    method: choice('method', text(args, 'method')!, mergeMethodNames),
    majoritySign: choice('majority-sign', text(args, 'majority-sign')!, ['total', 'frequency'] as const),
    density: figure(args, 'density')!,
    seed,
    rank,
    onProgress: ({ done, total, subject }) => {
      line?.update({ activity: `merging ${subject}`, done, total }, 'merging');
    },
  }).finally(() => line?.finish());
  if (args.json === true) return printJson(io, result);
  sayResult(
    io,
    result,
    result.renamed.map(({ from, to }) => `renamed ${from} to ${to}: another input has the word too`),
  );
}
