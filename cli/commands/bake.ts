/** `edlora bake`: a checkpoint with LoRAs inside. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import { bakeFiles } from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  type Args,
  dtypeOf,
  strengthOptions,
  strengthsOf,
  targetOf,
  targetOptions,
} from '../merging/options.ts';
import { printJson, sayResult } from '../merging/result.ts';
import { option, text, texts } from '../options.ts';
import { ProgressLine } from '../terminal/progress.ts';

const options = {
  base: option('Inputs:', 'Model: a diffusers folder or a single file', { demandOption: true }),
  loras: option('Inputs:', 'LoRA files', { demandOption: true, array: true }),
  ...strengthOptions,
  dtype: option('Result:', 'Numbers of the weights: fp32, fp16, bf16 [default: as the base has them]'),
  ...targetOptions,
  out: { ...targetOptions.out, describe: 'Folder for a diffusers base, .safetensors for a single file' },
} as const satisfies Record<string, Options>;

const WORLD = 'fixtures/tiny-world';

export const bakeCommand: Command = {
  usage: 'bake',
  description: 'Write a checkpoint with LoRAs inside, tensor by tensor',
  options,
  examples: [
    [
      `edlora bake --base ${WORLD}/model --loras ${WORLD}/concepts/edlora_smiley.pth --strength 0.8 --drop --out tuned`,
      'A model with a concept’s weights; its words stay outside',
    ],
    [
      'edlora bake --base sd_xl_base_1.0.safetensors --loras style-sdxl.safetensors --out styled.safetensors',
      'An SDXL checkpoint with a LoRA in both text encoders and the UNet',
    ],
  ],
  run: runBake,
};

async function runBake(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const files = texts(args, 'loras');
  if (files.length === 0) throw new UsageError('--loras: expected at least one file');
  const line = args.quiet === true ? null : new ProgressLine(io);
  const done = await bakeFiles({
    ...targetOf(args),
    signal,
    threads,
    ...dtypeOf(args),
    base: text(args, 'base')!,
    inputs: strengthsOf(args, files),
    onProgress: ({ done: count, total }) => {
      const mb = (size: number): number => Math.round(size / 1e6);
      line?.update({ activity: 'baking (MB)', done: mb(count), total: Math.max(1, mb(total)) }, 'baking');
    },
  }).finally(() => line?.finish());
  if (args.json === true) return printJson(io, done);
  sayResult(io, done);
}
