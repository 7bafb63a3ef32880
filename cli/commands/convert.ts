/** `edlora convert`: one LoRA or embedding file in another scheme. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import { convertFile, layerFormats, programNames, programs, schemes, wordFormats } from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import {
  type Args,
  baseOf,
  baseOption,
  choice,
  dtypeOf,
  dtypeOption,
  figure,
  targetOf,
  targetOptions,
} from '../merging/options.ts';
import { cutSummary, printJson, sayResult, worstLayers } from '../merging/result.ts';
import { option, text } from '../options.ts';
import { ProgressLine } from '../terminal/progress.ts';

const formats = [...new Set([...layerFormats, ...wordFormats])];

const { out: _out, ...result } = targetOptions;

const options = {
  format: option('Result:', `Scheme: ${formats.join(', ')}`),
  for: option('Result:', `In place of a scheme, the program that shall read it: ${programNames.join(', ')}`),
  rank: option(
    'Result:',
    'Largest rank of layers that are no LoRA yet (LoHa, LoKr, differences) [default: exact]',
  ),
  dtype: dtypeOption,
  word: option('Inputs:', 'Of a file with several words, the one to write'),
  base: baseOption,
  ...result,
} as const satisfies Record<string, Options>;

const smiley = 'fixtures/tiny-world/concepts/edlora_smiley.pth';

export const convertCommand: Command = {
  usage: 'convert <in> <out>',
  description: 'Write a LoRA or embedding file in another scheme; nothing is lost silently',
  options,
  positionals: {
    in: { type: 'string', describe: 'LoRA file, PEFT folder, or embeddings' },
    out: { type: 'string', describe: 'File to write; for peft a folder' },
  },
  examples: [
    [
      `edlora convert ${smiley} smiley.safetensors --for comfyui --drop`,
      'In names that ComfyUI reads; layer-wise words do not fit',
    ],
    [`edlora convert ${smiley} smiley --format peft --drop`, 'A PEFT folder'],
    [
      'edlora convert style-sdxl.safetensors style-diffusers.safetensors --format diffusers',
      'SDXL from kohya’s names to diffusers’',
    ],
    [`edlora convert ${smiley} smiley.bin --format xti --drop`, 'The words alone, in the 16-key form of XTI'],
  ],
  epilogue: [
    'Schemes:',
    ...layerFormats.map((name) => `  ${name.padEnd(20)} ${schemes[name].title}`),
    'Programs:',
    ...programNames.map((name) => `  ${name.padEnd(20)} ${programs[name].title}`),
  ].join('\n'),
  run: runConvert,
};

async function runConvert(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const rank = figure(args, 'rank');
  const word = text(args, 'word');
  const [format, program] = [text(args, 'format'), text(args, 'for')];
  if ((format === undefined) === (program === undefined)) {
    throw new UsageError('convert: expected either --format with a scheme or --for with a program');
  }
  const wanted =
    format === undefined
      ? { program: choice('for', program!, programNames) }
      : { format: choice('format', format, formats) };
  const line = args.quiet === true ? null : new ProgressLine(io);
  const done = await convertFile({
    ...targetOf(args),
    signal,
    threads,
    ...dtypeOf(args),
    ...baseOf(args),
    input: text(args, 'in')!,
    ...wanted,
    rank,
    word,
    onProgress: ({ done: count, total, subject }) => {
      line?.update({ activity: `converting ${subject}`, done: count, total }, 'converting');
    },
  }).finally(() => line?.finish());
  if (args.json === true) return printJson(io, done);
  const { converted, from } = done;
  const remarks = [`was: ${from}`];
  if (converted.length > 0) {
    remarks.push(
      `${converted.length} layers became LoRA: ${cutSummary(converted)}`,
      worstLayers(io, converted).trimEnd(),
    );
  }
  sayResult(io, done, remarks);
}
