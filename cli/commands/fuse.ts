/** `edlora fuse`: separately trained concepts into one merged LoRA. */
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Options } from 'yargs';
import {
  baseFiles,
  type Checkpoint,
  type CheckpointOptions,
  checkFusionOptions,
  checkFusionTarget,
  checkPortTarget,
  conceptFiles,
  DEFAULTS,
  defaultBase,
  defaultCaptions,
  estimateFusion,
  FUSION_METHODS,
  type Fusion,
  type FusionConceptInput,
  type FusionOptions,
  fuse,
  type LoraNaming,
  openCheckpoint,
  PRESETS,
  type Preset,
  planFusion,
  portable,
  portableWords,
  readCaptions,
  readFusionRecipe,
  recipeConcepts,
  STAGES,
  UsageError,
  withEmptyPrompt,
  writeFusion,
  writePort,
} from '../../src/index.ts';
import { withDefaults } from '../../src/settings.ts';
import { asTyped } from '../arguments.ts';
import type { Command, CommandContext } from '../command.ts';
import { readConcepts } from '../fusion/concepts.ts';
import { collectOptions, idleNotes, readCacheFolder, readCollectOptions } from '../fusion/options.ts';
import { planData, planText, stageList } from '../fusion/plan.ts';
import { idlePortNotes, portOptionsIn, portProgress, readPortOptions } from '../fusion/port.ts';
import { fusionProgress } from '../fusion/progress.ts';
import { resultData, resultText } from '../fusion/result.ts';
import { baseOptionsIn, number, outputOptions, perStage, readBaseOptions, stages, text } from '../options.ts';
import { type Io, sayNote } from '../terminal/io.ts';

type Args = Readonly<Record<string, unknown>>;
const NAMINGS: readonly LoraNaming[] = ['kohya', 'diffusers', 'peft', 'ed-lora'];

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
      'Steps of distillation after the solve, towards each concept’s own pictures; for many or hard concepts, e.g. 300 [default: 0]',
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
      'edlora fuse --extend fused --concepts fixtures/tiny-world/concepts/edlora_checker.pth --out three',
      'One more concept: only its features are collected',
    ],
    [
      'edlora fuse --base stable-diffusion-xl-base-1.0 --concepts toy.safetensors style.safetensors --out fused --dry-run',
      'SDXL: what two LoRAs are called, and what their fusion will take',
    ],
    [
      'edlora fuse --config fixtures/tiny-world/concepts/concepts.json --out four --checkpoint',
      'Four concepts, as LoRA and as a whole model',
    ],
  ],
  // Features of a partly fused model belong to this fusion alone.
  keeps: (args) =>
    readCacheFolder(args) === null || args.statistics === 'fused'
      ? 'nothing is kept, and no half-written file was left'
      : 'features collected so far are kept: the same line goes on from them',
  run: runFuse,
};

async function runFuse(args: Args, { io, signal, threads }: CommandContext): Promise<void> {
  const earlier = text(args, 'extend') === undefined ? null : await readFusionRecipe(text(args, 'extend')!);
  const options = readOptions(args, earlier?.options ?? DEFAULTS);
  const portOptions = readPortOptions(args);
  const out = text(args, 'out')!;
  const [checkpoint, force] = [args.checkpoint === true, args.force === true];
  const basePath = text(args, 'base') ?? earlier?.base.path ?? defaultBase();
  if (checkpoint && statSync(basePath, { throwIfNoEntry: false })?.isFile() === true) {
    throw new UsageError(`${basePath}: --checkpoint needs a diffusers folder as --base, got a single file`);
  }
  const captionFile = text(args, 'preserve-captions');
  const captions = captionFile === undefined ? earlier?.captions : await readCaptions(captionFile);
  const concepts = [
    ...(earlier === null ? [] : await recipeConcepts(earlier)),
    ...(await readConcepts(args, earlier !== null)),
  ];
  const recorded = text(args, 'base') === undefined ? earlier?.base.prediction : undefined;
  const base = await openCheckpoint(
    basePath,
    withDefaults<CheckpointOptions>({ prediction: recorded }, readBaseOptions(args)),
  );
  const words = concepts.flatMap(({ concept }) => concept.tokens.map(({ word }) => word));
  const ported = args.portable === true && words.length > 0;
  if (args.portable === true && !ported) {
    sayNote(
      io,
      '--portable: no concept has words of its own; a plain LoRA is what other programs read already',
    );
  }
  const portFolder = path.join(out, 'portable');
  if (args['dry-run'] !== true) {
    if (ported) checkPortTarget(portFolder, [...portableWords(words, base.tokenizer).values()], { force });
    else if (existsSync(portFolder)) {
      throw new UsageError(
        `${portFolder}: of an earlier fusion; this one writes none, so it would stand beside results that it does not belong to: move it away, choose another --out, or give --portable`,
      );
    }
    checkFusionTarget(out, {
      naming: args.format as LoraNaming,
      checkpoint,
      force,
      inputs: inputFiles(args, base, concepts),
      words: words.length > 0,
      layers: concepts.some(({ concept }) => concept.layers.size > 0),
    });
  }
  const preserved = captions === undefined ? {} : { preserveCaptions: captions };
  const request = {
    base,
    concepts,
    options,
    signal,
    threads,
    cacheFolder: readCacheFolder(args),
    ...preserved,
  };
  const idle = [...idleNotes(args, options), ...(ported ? [] : idlePortNotes(args))];
  if (args['dry-run'] === true) {
    const plan = await planFusion({ ...request, onNote: (text) => idle.push(text) });
    const estimate = await measured(io, () => estimateFusion(request, plan));
    const data = (): string => `${JSON.stringify(planData(plan, estimate, base.path, out, idle), null, 2)}\n`;
    io.out(args.json === true ? data() : planText(plan, estimate, base.path, out, io.columns, idle));
    return;
  }
  for (const note of idle) sayNote(io, note);
  const progress = args.quiet === true ? null : fusionProgress(io, options.steps);
  const said = idle.map(asTyped);
  let fusion: Fusion;
  try {
    fusion = await fuse({
      ...request,
      ...(progress === null ? {} : { onProgress: progress.show }),
      onNote: (text) => {
        said.push(asTyped(text));
        sayNote(io, text);
      },
    });
  } finally {
    progress?.finish();
  }
  const naming = args.format as LoraNaming;
  const written = await writeFusion(fusion, out, { naming, checkpoint, force, signal });
  if (ported) {
    const { concepts: fused, captions: preservedCaptions } = fusion;
    const named = fused.filter(({ concept }) => concept.tokens.length > 0);
    const porting = args.quiet === true ? null : portProgress(io);
    const port = await portable({
      base,
      deltas: new Map([...fusion.layers].map(([id, { delta }]) => [id, delta])),
      concepts: named.map(({ concept }) => concept),
      names: named.map(({ name }) => name),
      captions:
        preservedCaptions.length > 0 ? preservedCaptions : withEmptyPrompt(await defaultCaptions(base)),
      options: portOptions,
      signal,
      threads,
      ...(porting === null ? {} : { onProgress: porting.show }),
    }).finally(() => porting?.finish());
    const { files } = await writePort(
      base,
      port,
      named.map(({ name }) => name),
      portFolder,
      { force, signal },
    );
    written.files.push({
      path: path.resolve(portFolder),
      sizeBytes: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      what: 'for other programs: one embedding per word',
    });
  }
  const data = (): string => `${JSON.stringify(resultData(fusion, written, said), null, 2)}\n`;
  io.out(args.json === true ? data() : resultText(fusion, written, io));
}

/** Says on a terminal what it waits for. */
async function measured<T>(io: Io, measure: () => Promise<T>): Promise<T> {
  if (io.interactive) io.redraw('measuring a denoising step…');
  try {
    return await measure();
  } finally {
    if (io.interactive) io.redraw('');
  }
}

/** Everything that is read, none of which may be a result. */
function inputFiles(args: Args, base: Checkpoint, concepts: readonly FusionConceptInput[]): string[] {
  const named = ['config', 'preserve-captions'].flatMap((name) => text(args, name) ?? []);
  const earlier = text(args, 'extend');
  return [
    ...named,
    ...(earlier === undefined ? [] : [path.join(earlier, 'recipe.json')]),
    ...[base.path, ...baseFiles(base)],
    ...concepts.flatMap(({ concept }) => [concept.path, ...conceptFiles(concept)]),
  ];
}

/** Defaults (or those of an earlier fusion), then the preset, then what was given. @throws {UsageError} for values that cannot be */
function readOptions(args: Args, fallback: FusionOptions): FusionOptions {
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
