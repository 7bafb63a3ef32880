/** `edlora fuse`: separately trained concepts into one merged LoRA. */
import { statSync } from 'node:fs';
import type { Options } from 'yargs';
import { checkFusionOptions } from '../../src/fusion/options.ts';
import { STAGES } from '../../src/fusion/stage.ts';
import {
  checkOutputFolder,
  DEFAULTS,
  defaultBase,
  type Fusion,
  type FusionOptions,
  type FusionProgress,
  fuse,
  type LoraNaming,
  openCheckpoint,
  PRESETS,
  type Preset,
  planFusion,
  readCaptions,
  UsageError,
  writeFusion,
} from '../../src/index.ts';
import type { Command, CommandContext } from '../command.ts';
import { readParticipants } from '../fusion/participants.ts';
import { planData, planText, stageList } from '../fusion/plan.ts';
import { resultData, resultText } from '../fusion/result.ts';
import { baseOptions, number, outputOptions, perStage, stages, text } from '../options.ts';
import type { Io } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';

type Args = Readonly<Record<string, unknown>>;
const NAMINGS: readonly LoraNaming[] = ['kohya', 'diffusers', 'peft', 'edlora'];

const options = {
  concepts: {
    type: 'string',
    array: true,
    requiresArg: true,
    group: 'What to fuse:',
    describe: 'Concept files: ED-LoRA .pth or .safetensors, or plain LoRAs (kohya, diffusers, PEFT)',
  },
  config: {
    type: 'string',
    requiresArg: true,
    group: 'What to fuse:',
    describe: 'List of concepts: YAML or JSON, also Mix-of-Show’s concept list',
  },
  strength: {
    type: 'string',
    array: true,
    requiresArg: true,
    group: 'What to fuse:',
    describe: 'Strength of each concept, or one for all [default: 1]',
  },
  rename: {
    type: 'string',
    array: true,
    requiresArg: true,
    group: 'What to fuse:',
    describe: 'Call a word otherwise: "<old>=<new>"; of several files with it, the first one’s',
  },
  name: {
    type: 'string',
    array: true,
    requiresArg: true,
    group: 'What to fuse:',
    describe: 'Prompt words for a LoRA without words of its own: "file.safetensors=sks dog"',
  },
  base: { ...baseOptions.base, group: 'What to fuse:' },
  'base-config': { ...baseOptions['base-config'], group: 'What to fuse:' },
  preset: {
    choices: Object.keys(PRESETS),
    requiresArg: true,
    group: 'How:',
    describe: 'mix-of-show: the published objective, without preservation',
  },
  stages: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Stages to fuse [default: ${STAGES.join(',')}]`,
  },
  ridge: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Pull towards the base, per stage or one number [default: ${stageList(DEFAULTS.ridge)}]`,
  },
  preserve: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Weight of generic captions that must not change [default: ${stageList(DEFAULTS.preserve)}]`,
  },
  'preserve-captions': {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: 'Text file with those captions, one a line [default: the base’s own list, or the shipped one]',
  },
  statistics: {
    choices: ['fused', 'own'],
    requiresArg: true,
    group: 'How:',
    describe: `Collect features in the partly fused model or in each concept’s own [default: ${DEFAULTS.statistics}]`,
  },
  steps: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Denoising steps whose features are collected [default: ${DEFAULTS.steps}]`,
  },
  runs: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Denoising runs per concept [default: ${DEFAULTS.runs}]`,
  },
  guidance: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Guidance of those runs; 1: by the prompt alone [default: ${DEFAULTS.guidanceScale}]`,
  },
  seed: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Seed of the noise [default: ${DEFAULTS.seed}]`,
  },
  out: {
    type: 'string',
    default: 'fused',
    requiresArg: true,
    group: 'Results:',
    describe: 'Folder for the results',
  },
  format: {
    choices: NAMINGS,
    default: 'kohya',
    requiresArg: true,
    group: 'Results:',
    describe: 'Key names of the merged LoRA',
  },
  checkpoint: {
    type: 'boolean',
    default: false,
    group: 'Results:',
    describe: 'Also write model/, a diffusers folder with the fused weights',
  },
  force: {
    type: 'boolean',
    default: false,
    group: 'Results:',
    describe: 'Replace results of an earlier run in --out',
  },
  'dry-run': {
    type: 'boolean',
    default: false,
    group: 'Results:',
    describe: 'Check everything and print the plan only',
  },
  json: { ...outputOptions.json, group: 'Results:' },
  quiet: { ...outputOptions.quiet, group: 'Results:' },
} as const satisfies Record<string, Options>;

export const fuseCommand: Command = {
  usage: 'fuse',
  description: 'Fuse concepts into one merged LoRA',
  options,
  examples: [
    [
      'edlora fuse --concepts fixtures/tiny-world/concepts/edlora_smiley.pth fixtures/tiny-world/concepts/edlora_bullseye.pth',
      'Two shipped concepts on the shipped miniature',
    ],
    [
      'edlora fuse --config fixtures/tiny-world/concepts/concepts.json --out four --dry-run',
      'What would be fused',
    ],
    [
      'edlora fuse --config fixtures/tiny-world/concepts/concepts.json --out four --checkpoint',
      'Four concepts, as LoRA and as a whole model',
    ],
  ],
  epilogue: 'Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad input file, 130 interrupted.',
  run: runFuse,
};

async function runFuse(args: Args, { io, signal }: CommandContext): Promise<void> {
  const options = readOptions(args);
  const out = text(args, 'out')!;
  const [checkpoint, force] = [args.checkpoint === true, args.force === true];
  const basePath = text(args, 'base') ?? defaultBase();
  if (args['dry-run'] !== true) checkOutputFolder(out, force);
  if (checkpoint && statSync(basePath, { throwIfNoEntry: false })?.isFile() === true) {
    throw new UsageError(`${basePath}: --checkpoint needs a diffusers folder as --base, got a single file`);
  }
  const captionFile = text(args, 'preserve-captions');
  const captions = captionFile === undefined ? undefined : await readCaptions(captionFile);
  const participants = await readParticipants(args);
  const configFolder = text(args, 'base-config');
  const base = await openCheckpoint(basePath, configFolder === undefined ? {} : { configFolder });
  const preserved = captions === undefined ? {} : { preserveCaptions: captions };
  const request = { base, participants, options, signal, ...preserved };
  if (args['dry-run'] === true) {
    const plan = await planFusion(request);
    const data = (): string => `${JSON.stringify(planData(plan, base.path, out), null, 2)}\n`;
    io.out(args.json === true ? data() : planText(plan, base.path, out, io.columns));
    return;
  }
  const progress = args.quiet === true ? null : progressOn(io, options.steps);
  let fusion: Fusion;
  try {
    fusion = await fuse({ ...request, ...(progress === null ? {} : { onProgress: progress.show }) });
  } finally {
    progress?.finish();
  }
  const naming = args.format as LoraNaming;
  const written = await writeFusion(fusion, out, { naming, checkpoint, force });
  const data = (): string => `${JSON.stringify(resultData(fusion, written), null, 2)}\n`;
  io.out(args.json === true ? data() : resultText(fusion, written, io));
}

/** A fusion's progress in words; denoising runs count their steps. */
function progressOn(io: Io, steps: number): { show: (progress: FusionProgress) => void; finish: () => void } {
  const line = new ProgressLine(io, { unequalGroups: true });
  const verbs = { collect: 'collecting', preserve: 'preserving', solve: 'solving' } as const;
  let running = '';
  let step = 0;
  return {
    show: ({ stage, action, subject, done, total }) => {
      const group = `${stage} ${action}`;
      step = running === `${group} ${subject}` ? (step % steps) + 1 : 1;
      running = `${group} ${subject}`;
      const denoising = stage === 'spatial' && action !== 'solve';
      const stepCount = denoising ? `, step ${step} of ${steps}` : '';
      const activity = `${stage}: ${verbs[action]} ${subject || 'the empty prompt'}${stepCount}`;
      line.update({ activity, done, total }, group);
    },
    finish: () => line.finish(),
  };
}

/** Defaults, then the preset, then what was given. @throws {UsageError} for values that cannot be */
function readOptions(args: Args): FusionOptions {
  const preset = args.preset === undefined ? {} : PRESETS[args.preset as Preset];
  const defaults = { ...DEFAULTS, ...preset };
  const value = (name: string): string | undefined => text(args, name);
  const count = (name: 'steps' | 'runs' | 'seed'): number =>
    value(name) === undefined ? defaults[name] : number(`--${name}`, value(name)!);
  const chosen: FusionOptions = {
    ...defaults,
    stages: value('stages') === undefined ? defaults.stages : stages('stages', value('stages')!),
    ridge: value('ridge') === undefined ? defaults.ridge : perStage('ridge', value('ridge')!, defaults.ridge),
    preserve:
      value('preserve') === undefined
        ? defaults.preserve
        : perStage('preserve', value('preserve')!, defaults.preserve),
    steps: count('steps'),
    runs: count('runs'),
    seed: count('seed'),
    guidanceScale:
      value('guidance') === undefined ? defaults.guidanceScale : number('--guidance', value('guidance')!),
    statistics: (value('statistics') as FusionOptions['statistics'] | undefined) ?? defaults.statistics,
  };
  checkFusionOptions(chosen);
  return chosen;
}
