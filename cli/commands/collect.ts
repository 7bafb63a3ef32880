/** `edlora collect`: a concept's statistics into a file, ready for any fusion. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import {
  collectStatistics,
  DEFAULTS,
  defaultBase,
  type FusionConceptInput,
  type LayerScope,
  loadConcept,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import { openBase } from '../base.ts';
import type { Command, CommandContext } from '../command.ts';
import { collectOptions, idleNotes, readCollectOptions } from '../fusion/options.ts';
import { baseOptionsIn, number, outputOptions, readBaseOptions, text, texts } from '../options.ts';
import { sayNote } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { bytes, duration, nearPath } from '../terminal/table.ts';

type Args = Readonly<Record<string, unknown>>;

const { cache: _, ...featureOptions } = collectOptions;

const options = {
  ...baseOptionsIn('What to collect:'),
  strength: {
    type: 'string',
    requiresArg: true,
    group: 'What to collect:',
    describe: 'Strength the concept will be fused with [default: 1]',
  },
  name: {
    type: 'string',
    requiresArg: true,
    group: 'What to collect:',
    describe: 'Prompt words for a LoRA without words of its own',
  },
  layers: {
    choices: ['attention', 'linear'],
    requiresArg: true,
    group: 'What to collect:',
    describe:
      'Cover all attentions, or every linear layer, as a fusion with concepts that train others needs [default: what this concept trains]',
  },
  ...featureOptions,
  out: {
    type: 'string',
    requiresArg: true,
    group: 'Results:',
    describe: 'File to write, for one concept [default: <concept>.stats.safetensors beside it]',
  },
  force: {
    type: 'boolean',
    default: false,
    group: 'Results:',
    describe: 'Collect again where the file is there already',
  },
  json: { ...outputOptions.json, group: 'Results:' },
  quiet: { ...outputOptions.quiet, group: 'Results:' },
} as const satisfies Record<string, Options>;

export const collectCommand: Command = {
  usage: 'collect <concepts..>',
  description: 'Collect a concept’s features once, for every fusion to come',
  options,
  positionals: { concepts: { type: 'string', describe: 'Concept files, as for fuse' } },
  examples: [
    [
      'edlora collect fixtures/tiny-world/concepts/edlora_smiley.pth --out smiley.stats.safetensors',
      'A shipped concept on the shipped miniature',
    ],
    [
      'edlora collect style-sdxl.safetensors --base stable-diffusion-xl-base-1.0 --width 1024 --height 1024',
      'A LoRA on SDXL',
    ],
  ],
  epilogue:
    'A collection that is cut short goes on where it stood. fuse takes the file beside a concept if base, weights and options are the same.',
  keeps: 'what was collected so far is kept: the same line goes on from there',
  run: runCollect,
};

async function runCollect(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const files = texts(args, 'concepts');
  const out = text(args, 'out');
  if (out !== undefined && files.length > 1) {
    throw new UsageError(`--out: expected one concept with it, got ${files.length}`);
  }
  if (out !== undefined && !out.endsWith('.safetensors')) {
    throw new UsageError(`--out: expected a name that ends with .safetensors, got ${out}`);
  }
  const strength = text(args, 'strength') === undefined ? 1 : number('--strength', text(args, 'strength')!);
  const name = text(args, 'name') ?? null;
  const options = readCollectOptions(args, DEFAULTS);
  for (const note of idleNotes(args, { ...DEFAULTS, ...options })) sayNote(io, note);
  const base = await openBase(text(args, 'base') ?? defaultBase(), readBaseOptions(args), io);
  const concepts: FusionConceptInput[] = [];
  for (const file of files) {
    const concept = await loadConcept(file);
    concepts.push({ concept, unetStrength: strength, textEncoderStrength: strength, name });
  }
  const line = args.quiet === true ? null : new ProgressLine(io, { unequalGroups: true });
  const written = await collectStatistics({
    base,
    concepts,
    out,
    options,
    layers: args.layers as LayerScope | undefined,
    force: args.force === true,
    signal,
    threads,
    onNote: (text) => sayNote(io, text),
    onProgress: ({ stage, subject, done, total }) => {
      line?.update({ activity: `${stage}: collecting ${subject}`, done, total }, stage);
    },
  }).finally(() => line?.finish());
  if (args.json === true) io.out(`${JSON.stringify(written, null, 2)}\n`);
  else {
    for (const { concept, file, sizeBytes, elapsedMs } of written) {
      io.out(`${visible(concept)}: ${nearPath(file)}, ${bytes(sizeBytes)}, in ${duration(elapsedMs)}\n`);
    }
  }
}
