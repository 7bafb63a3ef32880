/** `edlora train`: a concept from pictures. */
import type { Options } from 'yargs';
import { UsageError } from '../../src/errors.ts';
import {
  checkTrainedTarget,
  defaultBase,
  readTrainingFile,
  samplePicture,
  stateFileOf,
  TRAINING_METHOD_NAMES,
  TRAINING_METHODS,
  type TrainedConcept,
  type TrainedFiles,
  type TrainingInput,
  type TrainingProgress,
  train,
  trainingJsonSchema,
  trainingSettings,
  writePicture,
  writeTrained,
} from '../../src/index.ts';
import { visible } from '../../src/visible.ts';
import { openBase } from '../base.ts';
import type { Command, CommandContext } from '../command.ts';
import { baseOptionsIn, outputOptions, readBaseOptions, text } from '../options.ts';
import { type Io, paint, sayNote } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { nearPath } from '../terminal/table.ts';
import { settingOptions, settingsFrom } from '../training/setting-options.ts';

type Args = Readonly<Record<string, unknown>>;

const RESULTS = 'Results:';
const options: Record<string, Options> = {
  config: {
    type: 'string',
    requiresArg: true,
    group: 'What to train:',
    describe: 'Settings from a YAML file, or a Mix-of-Show option file; options go before it',
  },
  ...baseOptionsIn('What to train:'),
  ...settingOptions(),
  out: {
    type: 'string',
    default: 'concept.safetensors',
    requiresArg: true,
    group: RESULTS,
    describe: 'File for the concept; .pth writes Mix-of-Show’s own structure',
  },
  resume: { type: 'boolean', default: false, group: RESULTS, describe: 'Go on from the state beside --out' },
  force: { type: 'boolean', default: false, group: RESULTS, describe: 'Replace an earlier --out' },
  'print-schema': {
    type: 'boolean',
    default: false,
    group: RESULTS,
    describe: 'Print the JSON Schema of --config files and stop',
  },
  json: {
    ...outputOptions.json,
    group: RESULTS,
    describe: 'Print one JSON line per step and one at the end',
  },
  quiet: { ...outputOptions.quiet, group: RESULTS },
};

const DATA = 'fixtures/tiny-world/concepts/smiley';

export const trainCommand: Command = {
  usage: 'train',
  description: 'Train a concept from a folder of pictures',
  options,
  examples: [
    [
      `edlora train --data ${DATA} --token "<face1>+<face2>" --init "<rand-0.013>+circle" --steps 400 --batch 4 --lr-embedding 5e-3 --lr-text 3e-5 --lr-unet 2.5e-3 --shifts 7 --out face.safetensors`,
      'An ED-LoRA on the miniature, which wants high learning rates',
    ],
    [
      `edlora train --method textual-inversion --data ${DATA} --token "<face>" --init circle --steps 200 --out face-ti.safetensors`,
      'A word alone',
    ],
    ['edlora train --config train.yaml --resume', 'Settings from a file; go on where it stopped'],
    [
      'edlora train --base stable-diffusion-xl-base-1.0 --method lora --data photos --resolution 1024 --out style.safetensors',
      'A LoRA on SDXL: both text encoders and the UNet',
    ],
  ],
  epilogue: [
    'Methods:',
    ...TRAINING_METHOD_NAMES.map((name) => `  ${name.padEnd(18)} ${TRAINING_METHODS[name].source}`),
  ].join('\n'),
  run: runTrain,
};

async function runTrain(args: Args, { io, signal }: CommandContext): Promise<void> {
  if (args['print-schema'] === true) {
    io.out(`${JSON.stringify(trainingJsonSchema(), null, 2)}\n`);
    return;
  }
  const config = text(args, 'config');
  const file = config === undefined ? null : await readTrainingFile(config);
  const input = { ...file?.settings, ...settingsFrom(args) };
  if (input.data === undefined)
    throw new UsageError('train: expected --data with a folder of pictures, or --config');
  const { settings } = trainingSettings(input as TrainingInput);
  const out = text(args, 'out')!;
  const baseConfig = text(args, 'base-config');
  const basePath = text(args, 'base') ?? file?.base ?? defaultBase();
  checkTrainedTarget(out, settings, {
    inputs: [
      config ?? '',
      basePath,
      baseConfig ?? '',
      settings.data,
      settings.captionFolder,
      settings.classData,
    ].filter((name) => name !== ''),
    force: args.force === true,
    resume: args.resume === true,
  });
  const quiet = args.quiet === true || args.json === true;
  for (const note of args.quiet === true ? [] : (file?.notes ?? [])) {
    sayNote(io, note);
  }
  const base = await openBase(basePath, readBaseOptions(args), io);
  // Phases differ in speed, and a resumed run begins in the middle.
  const line = new ProgressLine(io, { unequalGroups: true });
  const show = progressOn(line);
  const trained = await train({
    base,
    settings: input as TrainingInput,
    stateFile: stateFileOf(out),
    resume: args.resume === true,
    signal,
    onProgress: (progress) => {
      if (args.json === true && progress.step !== undefined) io.out(`${JSON.stringify(progress.step)}\n`);
      if (!quiet) show(progress);
    },
    onSample: async (picture, step) => {
      await writePicture(samplePicture(out, step), picture);
    },
  }).finally(() => line.finish());
  const files = await writeTrained(out, trained);
  if (args.json === true) io.out(`${JSON.stringify({ files, steps: trained.log.length })}\n`);
  else io.out(resultText(trained, files, io));
}

/** Weight of the losses so far in the one that is shown: single steps say little. */
const KEEP = 0.95;

/** Shows the phases of a run, and while training the running mean of the loss, the embeddings' norm, and the speed. */
function progressOn(line: ProgressLine): (progress: TrainingProgress) => void {
  let loss: number | null = null;
  let first: { readonly at: number; readonly done: number } | null = null;
  return ({ phase, done, total, step }) => {
    if (step === undefined) {
      line.update({ activity: phase, done, total }, phase);
      return;
    }
    loss = loss === null ? step.loss : KEEP * loss + (1 - KEEP) * step.loss;
    first ??= { at: performance.now(), done };
    const seconds = (performance.now() - first.at) / 1000 / (done - first.done);
    const shown = [
      `loss ${loss.toFixed(4)}`,
      ...(step.embeddingNorm > 0 ? [`embedding norm ${step.embeddingNorm.toFixed(3)}`] : []),
      ...(done === first.done ? [] : [speedText(seconds)]),
    ];
    line.update({ activity: shown.join(', '), done, total }, phase);
  };
}

/** Seconds of a step as people say it: `2.3 steps/s`, `8.1 s/step`. */
function speedText(seconds: number): string {
  return seconds < 1 ? `${(1 / seconds).toFixed(1)} steps/s` : `${seconds.toFixed(1)} s/step`;
}

function resultText(
  { method, settings, pictures, views, layers, tokens, log }: TrainedConcept,
  files: TrainedFiles,
  io: Io,
): string {
  const tail = log.slice(-Math.min(50, log.length));
  const mean = tail.reduce((sum, { loss }) => sum + loss, 0) / Math.max(1, tail.length);
  const what = [
    tokens.length > 0 ? tokens.map(({ word }) => visible(word)).join(' ') : null,
    layers.length > 0 ? `${layers.length} layers` : null,
  ].filter((part) => part !== null);
  return [
    `${paint(io, 'bold', method.title)}: ${what.join(', ')} from ${pictures} pictures (${views} views), ${settings.steps} steps`,
    `mean loss of the last ${tail.length} steps: ${mean.toPrecision(4)}`,
    '',
    `${nearPath(files.concept)}   the concept`,
    ...(files.embeddings === null ? [] : [`${nearPath(files.embeddings)}   embeddings of its words`]),
    `${nearPath(files.settings)}   settings and losses`,
    `${nearPath(files.plot)}   the losses drawn`,
    '',
  ].join('\n');
}
