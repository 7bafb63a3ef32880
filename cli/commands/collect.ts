/** `edlora collect`: a concept's statistics into a file, ready for any fusion. */
import { statSync } from 'node:fs';
import path from 'node:path';
import type { Options } from 'yargs';
import { checkCollectOptions } from '../../src/fusion/options.ts';
import { type Participant, prepareParticipant } from '../../src/fusion/participant.ts';
import { baseFiles, conceptFiles } from '../../src/fusion/recipe.ts';
import { type Stage, stageOf } from '../../src/fusion/stage.ts';
import {
  type LayerScope,
  StatisticsStore,
  scopeOf,
  statisticsBeside,
} from '../../src/fusion/statistics/statistics-store.ts';
import { DEFAULTS, defaultBase, loadConcept, openCheckpoint, UsageError } from '../../src/index.ts';
import { checkFileTarget } from '../../src/io/targets.ts';
import { visible } from '../../src/visible.ts';
import type { Command, CommandContext } from '../command.ts';
import { collectOptions, readCollectOptions } from '../fusion/options.ts';
import { baseOptions, number, outputOptions, text, texts } from '../options.ts';
import { sayNote } from '../terminal/io.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { bytes, duration, nearPath } from '../terminal/table.ts';

type Args = Readonly<Record<string, unknown>>;

const { cache: _, ...featureOptions } = collectOptions;

const options = {
  base: { ...baseOptions.base, group: 'What to collect:' },
  'base-config': { ...baseOptions['base-config'], group: 'What to collect:' },
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
  ],
  epilogue:
    'A collection that is cut short goes on where it stood. fuse takes the file beside a concept if base, weights and options are the same.',
  keeps: 'what was collected so far is kept: the same line goes on from there',
  run: runCollect,
};

async function runCollect(args: Args, { io, signal }: CommandContext): Promise<void> {
  const files = texts(args, 'concepts');
  const out = text(args, 'out');
  if (out !== undefined && files.length > 1) {
    throw new UsageError(`--out: expected one concept with it, got ${files.length}`);
  }
  if (out !== undefined && !out.endsWith('.safetensors')) {
    throw new UsageError(`--out: expected a name that ends with .safetensors, got ${out}`);
  }
  const collect = readCollectOptions(args, DEFAULTS);
  checkCollectOptions(collect);
  const strength = text(args, 'strength') === undefined ? 1 : number('--strength', text(args, 'strength')!);
  const configFolder = text(args, 'base-config');
  const base = await openCheckpoint(
    text(args, 'base') ?? defaultBase(),
    configFolder === undefined ? {} : { configFolder },
  );
  const jobs = [];
  for (const file of files) {
    const concept = await loadConcept(file);
    const target = out ?? statisticsBeside(concept);
    checkFileTarget(target, {
      inputs: [concept.path, ...conceptFiles(concept), base.path, ...baseFiles(base)],
      force: args.force === true,
    });
    const name = text(args, 'name') ?? null;
    jobs.push({
      target,
      participant: await prepareParticipant(base, {
        concept,
        unetStrength: strength,
        textEncoderStrength: strength,
        name,
      }),
    });
  }
  const units = collect.steps * collect.runs + 2;
  const line = args.quiet === true ? null : new ProgressLine(io, { unequalGroups: true });
  const written: { concept: string; file: string; sizeBytes: number; elapsedMs: number }[] = [];
  for (const [i, { target, participant }] of jobs.entries()) {
    let done = i * units;
    const start = performance.now();
    const store = new StatisticsStore(base, null, {
      signal,
      onNote: (text) => sayNote(io, text),
      onAdvance: (stage, subject) => {
        done++;
        const activity = `${stage}: collecting ${subject}`;
        line?.update({ activity, done, total: jobs.length * units }, stage);
      },
    });
    const scopes = {
      text: scope(participant, 'text', args.layers),
      cross: scope(participant, 'cross', args.layers),
      spatial: scope(participant, 'spatial', args.layers),
    };
    try {
      await store.collectInto(target, participant, scopes, collect);
    } finally {
      line?.finish();
    }
    const elapsedMs = performance.now() - start;
    const file = path.resolve(target);
    written.push({ concept: participant.name, file, sizeBytes: statSync(file).size, elapsedMs });
  }
  if (args.json === true) io.out(`${JSON.stringify(written, null, 2)}\n`);
  else {
    for (const { concept, file, sizeBytes, elapsedMs } of written) {
      io.out(`${visible(concept)}: ${nearPath(file)}, ${bytes(sizeBytes)}, in ${duration(elapsedMs)}\n`);
    }
  }
}

/** All attentions at least: the other concepts of a fusion train those. */
function scope({ concept }: Participant, stage: Stage, wanted: unknown): LayerScope {
  const trained = [...concept.layers.values()].filter((layer) => stageOf(layer) === stage);
  const own = scopeOf(trained.map(({ layerName }) => layerName));
  return wanted === 'linear' || own === 'linear' ? 'linear' : 'attention';
}
