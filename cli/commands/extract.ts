/** `edlora extract`: the difference of two checkpoints as a LoRA. */
import type { Options } from 'yargs';
import { extractModel, layerChoices } from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  type Args,
  choice,
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

const LAYERS = 'Layers:';

const options = {
  rank: option(LAYERS, 'Rank of linear layers', { default: '32' }),
  'conv-rank': option(LAYERS, 'Rank of convolutions larger than 1 × 1 [default: --rank]'),
  layers: option(LAYERS, `${layerChoices.join(', ')} (convolutions too)`, { default: 'transformer' }),
  'min-difference': option(LAYERS, 'Layers that change by no more than this count as unchanged', {
    default: '0',
  }),
  seed: option(LAYERS, 'Of the randomised range finder', { default: '0' }),
  format: formatOption,
  dtype: dtypeOption,
  ...targetOptions,
} as const satisfies Record<string, Options>;

export const extractCommand: Command = {
  usage: 'extract <tuned> <base>',
  description: 'Write the difference of two checkpoints as a LoRA',
  options,
  positionals: {
    tuned: { type: 'string', describe: 'Tuned model: diffusers folder or single file' },
    base: { type: 'string', describe: 'The model it was tuned from' },
  },
  examples: [
    [
      'edlora extract tuned fixtures/tiny-world/model --rank 4 --layers all --out extracted.safetensors',
      'Of a model made with bake, say',
    ],
    [
      'edlora extract tuned-sdxl.safetensors sd_xl_base_1.0.safetensors --rank 32 --out tuned-lora.safetensors',
      'Of two SDXL checkpoints',
    ],
  ],
  run: runExtract,
};

async function runExtract(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const line = args.quiet === true ? null : new ProgressLine(io);
  const convRank = figure(args, 'conv-rank');
  const done = await extractModel({
    ...targetOf(args),
    signal,
    threads,
    ...dtypeOf(args),
    tuned: text(args, 'tuned')!,
    base: text(args, 'base')!,
    rank: figure(args, 'rank')!,
    convRank,
    layers: choice('layers', text(args, 'layers')!, layerChoices),
    minDifference: figure(args, 'min-difference')!,
    seed: figure(args, 'seed')!,
    format: formatOf(args),
    onProgress: ({ done: count, total, subject }) => {
      line?.update({ activity: `extracting ${subject}`, done: count, total }, 'extracting');
    },
  }).finally(() => line?.finish());
  if (args.json === true) return printJson(io, done);
  sayResult(io, done, [cutSummary(done.extracted), worstLayers(io, done.extracted).trimEnd()]);
}
