/** `edlora port`: a concept or a fusion for programs that know one embedding per word. */
import path from 'node:path';
import type { Options } from 'yargs';
import {
  checkPortTarget,
  defaultCaptions,
  type LayerFormat,
  layerFormats,
  openPortSource,
  PORT_DEFAULTS,
  type Port,
  portable,
  portableWords,
  readCaptions,
  withEmptyPrompt,
  writePort,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import type { Command, CommandContext } from '../command.ts';
import { figure, portOptionsIn, portProgress, readPortOptions } from '../fusion/port.ts';
import { baseOptionsIn, option, outputOptions, readBaseOptions, text } from '../options.ts';
import type { Io } from '../terminal/io.ts';
import { bytes, nearPath, percent, table } from '../terminal/table.ts';

type Args = Readonly<Record<string, unknown>>;

const WHAT = 'What to port:';
const RESULTS = 'Results:';

const commandOptions = {
  ...baseOptionsIn(WHAT),
  strength: option(WHAT, 'Strength of a concept file [default: 1]'),
  ...portOptionsIn(WHAT),
  preserve: option(
    WHAT,
    `Weight of captions that are to be read as the base reads them [default: ${PORT_DEFAULTS.preserve}]`,
  ),
  ridge: option(WHAT, `Regularisation, relative to the features [default: ${PORT_DEFAULTS.ridge}]`),
  'preserve-captions': option(
    WHAT,
    'Text file with those captions [default: the base’s own, or general ones]',
  ),
  out: option(RESULTS, 'Folder', { default: 'portable' }),
  format: option(RESULTS, `Names in the LoRA: ${layerFormats.join(', ')} [default: kohya]`, {
    choices: layerFormats,
  }),
  force: {
    type: 'boolean',
    default: false,
    group: RESULTS,
    describe: 'Write into a folder that is not empty, replacing files of the same names',
  },
  'dry-run': {
    type: 'boolean',
    default: false,
    group: RESULTS,
    describe: 'Check everything and say what would be written only',
  },
  json: { ...outputOptions.json, group: RESULTS },
  quiet: { ...outputOptions.quiet, group: RESULTS },
} as const satisfies Record<string, Options>;

export const portCommand: Command = {
  usage: 'port <source>',
  description: 'Make a concept or a fusion readable by other programs: one embedding per word',
  options: commandOptions,
  positionals: { source: { type: 'string', describe: 'Concept file with words, or the folder of a fusion' } },
  examples: [
    [
      'edlora port fixtures/tiny-world/concepts/edlora_smiley.pth --out portable',
      'A shipped concept: a LoRA, embedding files, and a page on how to call them',
    ],
    ['edlora port fused --out fused/portable', 'A fusion'],
    [
      'edlora port toy.safetensors --base stable-diffusion-xl-base-1.0 --out portable',
      'SDXL: one clip_l and one clip_g a word',
    ],
  ],
  run: runPort,
};

async function runPort(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const file = text(args, 'source')!;
  const out = text(args, 'out')!;
  const options = readPortOptions(args, {
    preserve: figure(args, 'preserve'),
    ridge: figure(args, 'ridge'),
  });
  const { configFolder, prediction } = readBaseOptions(args);
  const source = await openPortSource(file, {
    base: text(args, 'base'),
    baseConfig: configFolder,
    prediction,
    strength: figure(args, 'strength'),
  });
  const format = (text(args, 'format') ?? 'kohya') as LayerFormat;
  const target = { format, force: args.force === true, inputs: [path.resolve(file)] };
  const words = source.concepts.flatMap(({ tokens }) => tokens.map(({ word }) => word));
  const called = portableWords(words, source.base.tokenizer);
  checkPortTarget(out, [...called.values()], target);
  const learned = (options.refine ?? 0) > 0 ? await source.readTeachers(signal) : {};
  if (args['dry-run'] === true) {
    const plan = { folder: path.resolve(out), words: Object.fromEntries(called), layers: source.deltas.size };
    io.out(args.json === true ? json(plan) : planText(file, out, called));
    return;
  }
  const list = text(args, 'preserve-captions');
  const captions = list === undefined ? await defaultCaptions(source.base) : await readCaptions(list);
  const progress = args.quiet === true ? null : portProgress(io);
  const port = await portable({
    ...source,
    ...learned,
    captions: withEmptyPrompt(captions),
    options,
    signal,
    threads,
    ...(progress === null ? {} : { onProgress: progress.show }),
  }).finally(() => progress?.finish());
  const written = await writePort(source.base, port, source.names, out, { ...target, signal });
  if (args.json === true)
    io.out(
      json({
        ...written,
        words: Object.fromEntries(written.words),
        layers: port.layers,
        wordChecks: port.wordChecks,
        refineChecks: port.refineChecks,
      }),
    );
  else io.out(resultText(file, port, written, io));
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

const wordList = (called: ReadonlyMap<string, string>): string =>
  [...called].map(([word, name]) => `${visible(word)} → ${visible(name)}`).join(', ');

function planText(file: string, out: string, called: ReadonlyMap<string, string>): string {
  return `Would port ${nearPath(file)} into ${nearPath(out)}; nothing is written.\nwords: ${wordList(called)}\n`;
}

function resultText(
  file: string,
  { layers, wordChecks, refineChecks }: Port,
  { folder, files, words }: Awaited<ReturnType<typeof writePort>>,
  io: Io,
): string {
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const kinds = (['to_k', 'to_v'] as const).map((kind) => {
    const own = layers.filter(({ id }) => id.endsWith(kind));
    return {
      what: kind === 'to_k' ? 'keys' : 'values',
      kept: mean(own.map(({ kept }) => kept)),
      least: Math.min(...own.map(({ kept }) => kept)),
      own: mean(own.map(({ keptByOwn }) => keptByOwn)),
    };
  });
  const kept = table(
    kinds,
    [
      { title: 'of the answers', value: ({ what }) => what },
      { title: 'kept', value: (row) => percent(row.kept), align: 'right' },
      { title: 'worst layer', value: ({ least }) => percent(least), align: 'right' },
      { title: 'by its own weights', value: ({ own }) => percent(own), align: 'right' },
    ],
    io.columns,
  );
  const written = table(
    files,
    [
      { title: `files in ${nearPath(folder)}`, value: (entry) => path.basename(entry.path) },
      { title: 'size', value: (entry) => bytes(entry.sizeBytes), align: 'right' },
      { title: 'what', value: (entry) => entry.what },
    ],
    io.columns,
  );
  return [
    `Ported ${nearPath(file)}: ${wordList(words)}`,
    '',
    kept,
    'Kept: how near answers under one embedding per word come to those under one per layer, on',
    'templates that were not used. By its own weights: without new keys and values.',
    ...movedText(wordChecks),
    ...refinedText(refineChecks),
    '',
    written,
    '',
  ].join('\n');
}

/** What the steps on the embeddings were worth. */
function movedText(checks: Port['wordChecks']): string[] {
  const [first] = checks;
  if (first === undefined) return [];
  const best = checks.reduce((least, check) => (check.error < least.error ? check : least));
  return best === first
    ? ['Embeddings: no step left less of the error there, so they are the layers’ mean.']
    : [
        `Embeddings: those of step ${best.step} leave ${percent(best.error)} of the error there at full rank,`,
        `the layers’ mean ${percent(first.error)}.`,
      ];
}

/** What distillation was worth. */
function refinedText(checks: Port['refineChecks']): string[] {
  const [first, last] = [checks[0], checks.at(-1)];
  if (first === undefined || last === undefined) return [];
  return last.error < first.error
    ? [`Refined: the error of predictions there is ${percent(last.error / first.error)} of what it was.`]
    : ['Refined: predictions there got no better, so the LoRA is as it was solved.'];
}
