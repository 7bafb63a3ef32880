/** `edlora fuse`: separately trained concepts into one merged LoRA. */
import { statSync } from 'node:fs';
import path from 'node:path';
import type { Options } from 'yargs';
import { nearestName } from '../../src/concepts/nearest-name.ts';
import { UsageError } from '../../src/errors.ts';
import { STAGES, stageOf } from '../../src/fusion/stage.ts';
import {
  checkOutputFolder,
  conceptName,
  DEFAULTS,
  defaultBase,
  type Fusion,
  type FusionOptions,
  type FusionPlan,
  type FusionProgress,
  fuse,
  type LoraNaming,
  loadConcept,
  openCheckpoint,
  type ParticipantInput,
  PRESETS,
  type Preset,
  planFusion,
  readCaptions,
  readManifest,
  renameTokens,
  type Stage,
  type WrittenFile,
  writeFusion,
} from '../../src/index.ts';
import { rankOf } from '../../src/linalg/low-rank.ts';
import type { Command, CommandContext } from '../command.ts';
import { baseOptions, number, numbers, outputOptions, pairs, perStage, text, texts } from '../options.ts';
import { paint } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { bytes, duration, nearPath, percent, table } from '../terminal/table.ts';

type Args = Readonly<Record<string, unknown>>;
const NAMINGS: readonly LoraNaming[] = ['kohya', 'diffusers', 'peft', 'edlora'];
const stageList = (values: Readonly<Record<Stage, number>>): string =>
  STAGES.map((stage) => `${stage}=${values[stage]}`).join(',');

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
    describe: 'Call a concept’s word otherwise: "<old>=<new>"',
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
  const fusionOptions = readOptions(args);
  const out = text(args, 'out')!;
  if (args['dry-run'] !== true) checkOutputFolder(out, args.force === true);
  const captionFile = text(args, 'preserve-captions');
  const preserveCaptions = captionFile === undefined ? undefined : await readCaptions(captionFile);
  const participants = await readParticipants(args);
  const baseConfig = text(args, 'base-config');
  const base = await openCheckpoint(
    text(args, 'base') ?? defaultBase(),
    baseConfig === undefined ? {} : { configFolder: baseConfig },
  );
  const request = {
    base,
    participants,
    options: fusionOptions,
    signal,
    ...(preserveCaptions === undefined ? {} : { preserveCaptions }),
  };
  if (args['dry-run'] === true) {
    const plan = await planFusion(request);
    io.out(
      args.json === true
        ? `${JSON.stringify(planData(plan), null, 2)}\n`
        : planText(plan, base.path, io.columns),
    );
    return;
  }
  const line = new ProgressLine(io);
  const onProgress = (progress: FusionProgress): void => {
    if (args.quiet === true) return;
    const { stage, action, subject, done, total } = progress;
    const verb = { collect: 'collecting', preserve: 'preserving', solve: 'solving' }[action];
    line.update(
      { activity: `${stage}: ${verb} ${subject || 'the empty prompt'}`, done, total },
      `${stage} ${action}`,
    );
  };
  let fusion: Fusion;
  try {
    fusion = await fuse({ ...request, onProgress });
  } finally {
    line.finish();
  }
  const written = await writeFusion(fusion, out, {
    naming: args.format as LoraNaming,
    checkpoint: args.checkpoint === true,
    force: args.force === true,
  });
  if (args.json === true) {
    io.out(
      `${JSON.stringify({ folder: written.folder, files: written.files, report: fusion.report }, null, 2)}\n`,
    );
    return;
  }
  io.out(resultText(fusion, written, io.columns));
  for (const warning of warnings(fusion)) io.out(`${paint(io, 'yellow', 'note:')} ${warning}\n`);
}

function readOptions(args: Args): Partial<FusionOptions> {
  const preset = args.preset === undefined ? {} : PRESETS[args.preset as Preset];
  const defaults = { ...DEFAULTS, ...preset };
  const value = (name: string): string | undefined => text(args, name);
  const count = (name: 'steps' | 'runs' | 'seed'): number =>
    value(name) === undefined ? defaults[name] : number(`--${name}`, value(name)!);
  return {
    stages: value('stages') === undefined ? defaults.stages : readStages(value('stages')!),
    ridge: value('ridge') === undefined ? defaults.ridge : perStage('ridge', value('ridge')!, defaults.ridge),
    preserve:
      value('preserve') === undefined
        ? defaults.preserve
        : perStage('preserve', value('preserve')!, defaults.preserve),
    steps: count('steps'),
    runs: count('runs'),
    seed: count('seed'),
    statistics: (value('statistics') as FusionOptions['statistics'] | undefined) ?? defaults.statistics,
  };
}

function readStages(value: string): Stage[] {
  return value.split(',').map((name) => {
    const stage = STAGES.find((known) => known === name.trim());
    if (stage === undefined) {
      const nearest = nearestName(name.trim(), STAGES);
      const hint = nearest === null ? `expected ${STAGES.join(', ')}` : `did you mean "${nearest}"?`;
      throw new UsageError(`--stages: unknown stage "${name.trim()}"; ${hint}`);
    }
    return stage;
  });
}

async function readParticipants(args: Args): Promise<ParticipantInput[]> {
  const specs = texts(args, 'concepts').map((file) => ({
    path: file,
    unetStrength: 1,
    textEncoderStrength: 1,
    conceptName: null as string | null,
  }));
  const config = text(args, 'config');
  if (config !== undefined) specs.push(...(await readManifest(config)));
  if (specs.length === 0)
    throw new UsageError('fuse: expected --concepts with at least one file, or --config');
  const strengths = numbers(args, 'strength');
  if (strengths.length > 1 && strengths.length !== specs.length) {
    throw new UsageError(
      `--strength: expected one number, or ${specs.length} for ${specs.length} concepts, got ${strengths.length}`,
    );
  }
  const names = pairs('name', texts(args, 'name'));
  const renames = pairs('rename', texts(args, 'rename'));
  const participants: ParticipantInput[] = [];
  for (const [i, spec] of specs.entries()) {
    const strength = strengths[i] ?? strengths[0] ?? 1;
    const loaded = await loadConcept(spec.path);
    // One pair serves one word: the first concept that has it keeps the rest of the list for others of the same name.
    const own = [...renames].filter(([old]) => loaded.tokens.some(({ word }) => word === old));
    for (const [old] of own) renames.delete(old);
    const concept = own.length === 0 ? loaded : renameTokens(loaded, new Map(own));
    const given = names.get(spec.path) ?? names.get(path.basename(spec.path));
    names.delete(spec.path);
    names.delete(path.basename(spec.path));
    participants.push({
      concept,
      unetStrength: spec.unetStrength * strength,
      textEncoderStrength: spec.textEncoderStrength * strength,
      name: given ?? (own.length === 0 ? spec.conceptName : null),
    });
  }
  const unused = [...renames.keys(), ...names.keys()];
  if (unused.length > 0) {
    const words = participants
      .map(({ concept }) => conceptName(concept) || path.basename(concept.path))
      .join(', ');
    throw new UsageError(`--rename/--name: nothing is called ${unused.join(', ')}; there is: ${words}`);
  }
  return participants;
}

function planData({ participants, options: resolved, captions, layers }: FusionPlan): unknown {
  return {
    concepts: participants.map(({ concept, name, unetStrength, textEncoderStrength }) => ({
      name,
      file: concept.path,
      sizeBytes: statSync(concept.path).size,
      format: concept.format,
      words: concept.tokens.map(({ word }) => word),
      unetStrength,
      textEncoderStrength,
      layers: Object.fromEntries(STAGES.map((stage) => [stage, stageLayers(concept, stage)])),
      ranks: ranksOf(concept),
    })),
    options: resolved,
    captions,
    layers,
  };
}

type Concept = FusionPlan['participants'][number]['concept'];
const stageLayers = (concept: Concept, stage: Stage): number =>
  [...concept.layers.values()].filter((layer) => stageOf(layer) === stage).length;
const ranksOf = (concept: Concept): number[] =>
  [...new Set([...concept.layers.values()].map(({ rank }) => rank))].sort((a, b) => a - b);

function planText(plan: FusionPlan, base: string, columns: number): string {
  const rows = table(
    plan.participants,
    [
      { title: 'concept', value: ({ name }) => name },
      { title: 'file', value: ({ concept }) => path.basename(concept.path), flexible: true },
      { title: 'rank', value: ({ concept }) => ranksOf(concept).join('/'), align: 'right' },
      {
        title: 'strength',
        value: (p) => [...new Set([p.unetStrength, p.textEncoderStrength])].join('/'),
        align: 'right',
      },
      ...STAGES.map((stage) => ({
        title: stage,
        value: ({ concept }: { concept: Concept }) => String(stageLayers(concept, stage)),
        align: 'right' as const,
      })),
    ],
    columns,
  );
  const { options: o, captions, layers } = plan;
  const counts = STAGES.map((stage) => `${stage} ${layers[stage].length}`).join(', ');
  return [
    `Would fuse ${plan.participants.length} concepts on ${nearPath(base)}; nothing is written.`,
    '',
    `${rows}`,
    `layers to solve: ${counts}`,
    `ridge ${stageList(o.ridge)}`,
    `preserve ${stageList(o.preserve)} over ${captions.length} captions`,
    `${o.runs} denoising run${o.runs === 1 ? '' : 's'} of ${o.steps} steps a concept, seed ${o.seed}, ${o.statistics} statistics`,
    '',
  ].join('\n');
}

function resultText(
  { report, participants, layers, base }: Fusion,
  written: { folder: string; files: WrittenFile[] },
  columns: number,
): string {
  const rank = Math.max(0, ...[...layers.values()].map(({ delta }) => rankOf(delta)));
  const concepts = table(
    report.concepts,
    [
      { title: 'concept', value: ({ name }) => name },
      { title: 'file', value: ({ file }) => path.basename(file), flexible: true },
      {
        title: 'layers',
        value: ({ file }) =>
          String(participants.find(({ concept }) => concept.path === file)!.concept.layers.size),
        align: 'right',
      },
      { title: 'text', value: ({ kept }) => percent(kept.text), align: 'right' },
      { title: 'cross', value: ({ kept }) => percent(kept.cross), align: 'right' },
      { title: 'spatial', value: ({ kept }) => percent(kept.spatial), align: 'right' },
    ],
    columns,
  );
  const files = table(
    written.files,
    [
      {
        title: `files in ${nearPath(written.folder)}`,
        value: (file) => path.basename(file.path),
      },
      { title: 'size', value: (file) => bytes(file.sizeBytes), align: 'right' },
      { title: 'what', value: (file) => file.what },
    ],
    columns,
  );
  const title = `Fused ${report.concepts.length} concept${report.concepts.length === 1 ? '' : 's'} on ${nearPath(base.path)}`;
  return [
    title,
    '',
    `${concepts}`,
    'Kept: the share of each concept’s own effect on its own features that survived.',
    `${layers.size} layers, rank up to ${rank}; ${report.preservedCaptions} captions preserved; ${duration(report.elapsedMs)}, ${bytes(report.peakMemoryBytes)} of memory.`,
    '',
    files,
  ].join('\n');
}

/** What a user should know before trusting the result. */
function warnings({ report }: Fusion): string[] {
  const notes: string[] = [];
  for (const { name, kept, worst } of report.concepts) {
    const weak = STAGES.filter((stage) => (kept[stage] ?? 1) < 0.5);
    if (weak.length > 0) {
      notes.push(
        `${name} kept little in ${weak.join(' and ')} (worst layer ${worst?.layerName}); lower --ridge or --preserve there, or fuse fewer concepts`,
      );
    }
  }
  for (const { stage, largestChange } of report.stages) {
    if (largestChange !== null && largestChange > 10) {
      notes.push(
        `${stage}: a layer changed ${largestChange.toFixed(0)} times as much as any concept’s own; raise --ridge ${stage}=… or --preserve ${stage}=…`,
      );
    }
  }
  return notes;
}
