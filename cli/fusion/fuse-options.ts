/** What `edlora fuse` can be told, and how it solves by that. */
import type { Options } from 'yargs';
import {
  checkFusionOptions,
  DEFAULTS,
  FUSION_METHODS,
  type FusionOptions,
  type LoraNaming,
  PRESETS,
  type Preset,
  STAGES,
} from '../../src/index.ts';
import { baseOptionsIn, number, outputOptions, perStage, stages, text } from '../options.ts';
import { collectOptions, readCollectOptions } from './options.ts';
import { stageList } from './plan.ts';
import { portOptionsIn } from './port.ts';

type Args = Readonly<Record<string, unknown>>;
const NAMINGS: readonly LoraNaming[] = ['kohya', 'diffusers', 'peft', 'ed-lora'];

export const fuseOptions = {
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
  extend: {
    type: 'string',
    requiresArg: true,
    group: 'What to fuse:',
    describe: 'Folder of an earlier fusion: its concepts, base and options come first; --concepts are added',
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
  ...baseOptionsIn('What to fuse:'),
  preset: {
    choices: Object.keys(PRESETS),
    requiresArg: true,
    group: 'How:',
    describe: 'mix-of-show: the published objective, without preservation',
  },
  method: {
    choices: FUSION_METHODS.map(({ name }) => name),
    requiresArg: true,
    group: 'How:',
    describe: `How layers are solved [default: ${DEFAULTS.method}]`,
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
    describe: `Pull towards the base, per stage or one value; auto: by held-out features [default: ${stageList(DEFAULTS.ridge)}]`,
  },
  preserve: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Weight of generic captions that must not change, likewise [default: ${stageList(DEFAULTS.preserve)}]`,
  },
  'preserve-captions': {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: 'Text file with those captions, one a line [default: the base’s own list, or the shipped one]',
  },
  refine: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe:
      'Steps of distillation after the solve, towards each concept’s own predictions, some 200 a concept: a minute or two on the miniature, most of a day at full size [default: 0]',
  },
  rank: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: 'Cut each layer to this rank, or auto: the least that keeps --rank-share [default: exact]',
  },
  'rank-share': {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: `Share of the effect on features that --rank auto keeps [default: ${DEFAULTS.rankShare}]`,
  },
  iterations: {
    type: 'string',
    requiresArg: true,
    group: 'How:',
    describe: 'Iterations of --method lbfgs at most [default: 500 text and cross, 50 spatial]',
  },
  statistics: {
    choices: ['fused', 'own'],
    requiresArg: true,
    group: 'Features:',
    describe: `Collect features in the partly fused model or in each concept’s own [default: ${DEFAULTS.statistics}]`,
  },
  ...collectOptions,
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
  portable: {
    type: 'boolean',
    default: false,
    group: 'Results:',
    describe: 'Also write portable/: one embedding per word, for other programs, as edlora port does',
  },
  ...portOptionsIn('Results:'),
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

/** Defaults (or those of an earlier fusion), then the preset, then what was given. @throws {UsageError} for values that cannot be */
export function readFuseOptions(args: Args, fallback: FusionOptions): FusionOptions {
  const preset = args.preset === undefined ? {} : PRESETS[args.preset as Preset];
  const defaults = { ...fallback, ...preset };
  const value = (name: string): string | undefined => text(args, name);
  const rank = value('rank');
  const given = <T>(name: string, read: (text: string) => T, fallback: T): T =>
    value(name) === undefined ? fallback : read(value(name)!);
  const chosen: FusionOptions = {
    ...defaults,
    ...readCollectOptions(args, defaults),
    method: (value('method') as FusionOptions['method'] | undefined) ?? defaults.method,
    stages: given('stages', (list) => stages('stages', list), defaults.stages),
    ridge: given('ridge', (list) => perStage('ridge', list, defaults.ridge), defaults.ridge),
    preserve: given('preserve', (list) => perStage('preserve', list, defaults.preserve), defaults.preserve),
    rank: rank === undefined ? defaults.rank : rank === 'auto' ? 'auto' : number('--rank', rank),
    refine: given('refine', (count) => number('--refine', count), defaults.refine),
    rankShare: given('rank-share', (share) => number('--rank-share', share), defaults.rankShare),
    iterations: given<number | null>(
      'iterations',
      (count) => number('--iterations', count),
      defaults.iterations,
    ),
    statistics: (value('statistics') as FusionOptions['statistics'] | undefined) ?? defaults.statistics,
  };
  checkFusionOptions(chosen);
  return chosen;
}
