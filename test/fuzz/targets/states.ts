/** What edlora itself keeps: statistics, unfinished statistics, the state of a training run. */
import { inspect } from '../../../src/concepts/inspect.ts';
import { memoryTensor } from '../../../src/formats/raw-tensor.ts';
import { sealOf } from '../../../src/formats/seal.ts';
import { FeatureSums } from '../../../src/fusion/statistics/feature-sums.ts';
import { openPartial, openStatistics } from '../../../src/fusion/statistics/statistics-file.ts';
import { RECIPE_VERSION, type StatisticsKey } from '../../../src/fusion/statistics/statistics-recipe.ts';
import { adamwState } from '../../../src/optim/adamw.ts';
import { TRAINING_METHODS } from '../../../src/training/methods/index.ts';
import { resolveSettings } from '../../../src/training/methods/method.ts';
import { trainingSchema } from '../../../src/training/options.ts';
import { type RunState, restoreState } from '../../../src/training/run-state.ts';
import { type PlainTensor, readPlain } from '../mutate/safetensors.ts';
import type { Random } from '../random.ts';
import { attempt, type SeedFile, type Target } from '../target.ts';
import { plain, safetensors, values } from './seeds.ts';

const RECIPE: StatisticsKey = {
  version: RECIPE_VERSION,
  base: ['a'.repeat(64), 'b'.repeat(64)],
  networks: 'e'.repeat(64),
  schedule: 'c'.repeat(64),
  subject: {
    kind: 'concept',
    name: '<a> <b>',
    words: ['<a>', '<b>'],
    unetStrength: 1,
    textEncoderStrength: 1,
    files: ['d'],
    layers: 'f'.repeat(64),
    tokens: '0'.repeat(64),
  },
  layers: { text: 'attention', cross: 'attention', spatial: 'none' },
  options: {
    ...{ steps: 2, seed: 0, promptTemplates: ['{}'], runs: 1, guidanceScale: 1, contrast: 1 },
    size: { width: 64, height: 64 },
  },
};
const ROW_INPUT = 'down.attn2.to_k';
const GRAM_INPUT = 'layers.0.q_proj';

const hashOf = (header: unknown, tensors: readonly PlainTensor[]): string =>
  sealOf(
    header,
    tensors.map(({ name, dtype, shape, data }) => memoryTensor(name, dtype, shape, data)),
  );

/** The header with the hash that it and the tensors have now. */
const rehashed =
  (key: string | null) =>
  (file: SeedFile, random: Random): SeedFile => {
    if (random.chance(0.1)) return file;
    try {
      const { tensors, metadata } = readPlain(file.bytes);
      const labels = Object.fromEntries(metadata);
      const { sha256: _, ...header } =
        key === null ? labels : (JSON.parse(labels[key]!) as { sha256: string });
      const hash = hashOf(header, tensors);
      // In place, so that a header which JSON.parse would even out stays as odd as it is.
      const text = Buffer.from(file.bytes).toString('latin1');
      return {
        ...file,
        bytes: Buffer.from(text.replace(/(sha256\\*":\\*")[0-9a-f]{64}/, `$1${hash}`), 'latin1'),
      };
    } catch {
      return file;
    }
  };

const statistics: Target = {
  name: 'statistics',
  batch: 400,
  words: [
    'edlora.statistics',
    `text|${GRAM_INPUT}`,
    `cross|${ROW_INPUT}`,
    'inputOf',
    'sizes',
    'rows',
    'asRows',
    'spatial',
  ],
  seeds: async () => {
    const tensors = [plain(`text|${GRAM_INPUT}`, 10), plain(`cross|${ROW_INPUT}`, 2, 4)];
    const empty = { inputOf: {}, rows: {}, sizes: {}, asRows: [] };
    const stages = {
      text: {
        ...empty,
        inputOf: { a: GRAM_INPUT, b: GRAM_INPUT },
        rows: { [GRAM_INPUT]: 7 },
        sizes: { [GRAM_INPUT]: 4 },
      },
      cross: {
        inputOf: { c: ROW_INPUT },
        rows: { [ROW_INPUT]: 2 },
        sizes: { [ROW_INPUT]: 4 },
        asRows: [ROW_INPUT],
      },
      spatial: empty,
    };
    const content = { recipe: RECIPE, stages };
    const header = JSON.stringify({ ...content, sha256: hashOf(content, tensors) });
    return [[safetensors('a.stats.safetensors', tensors, { 'edlora.statistics': header })]];
  },
  repair: rehashed('edlora.statistics'),
  run: async ({ file, random }) => {
    if (random.chance(0.1)) await attempt(() => inspect(file));
    const stored = await openStatistics(file);
    for (const stage of Object.values(stored.statistics)) {
      for (const input of [...stage.rows.keys(), ...stage.inputOf.values()].slice(0, 20)) {
        await attempt(() => stage.term(input));
      }
    }
  },
};

const partial: Target = {
  name: 'partial-statistics',
  batch: 400,
  words: [
    'edlora.unfinished_statistics',
    'sum|a',
    'prediction|0',
    'prediction|1',
    'runsDone',
    'predictions',
    'rows',
    'asRows',
    'rows|b',
  ],
  seeds: async () => {
    const sum = values(10);
    const packed = Buffer.from(Float64Array.from(sum).buffer);
    const tensors: PlainTensor[] = [
      { name: 'sum|a', dtype: 'F64', shape: [10], data: packed },
      plain('rows|b', 12),
      ...[plain('prediction|0', 8), plain('prediction|1', 8)],
    ];
    const content = { recipe: RECIPE, runsDone: 1, predictions: 2, rows: { a: 7, b: 3 }, asRows: { b: 4 } };
    const header = JSON.stringify({ ...content, sha256: hashOf(content, tensors) });
    return [[safetensors('a.partial', tensors, { 'edlora.unfinished_statistics': header })]];
  },
  repair: rehashed('edlora.unfinished_statistics'),
  run: async ({ file }) => {
    const state = await openPartial(file, RECIPE);
    if (state === null) return;
    const sums = new FeatureSums(new Map([['layer', 'a']]));
    await attempt(() => sums.restore(state.sums));
    sums.finish();
  },
};

const SETTINGS = resolveSettings(
  TRAINING_METHODS['ed-lora'],
  trainingSchema.parse({ data: 'pictures', token: '<a>', init: '<rand-0.013>', rankPattern: { attn2: 8 } }),
);

const trainingState: Target = {
  name: 'training-state',
  batch: 400,
  words: [
    'parameter|a',
    'mean|a',
    'square|a',
    'optimizer_steps',
    'loss',
    'embedding_norm',
    'step',
    'stopped',
    'settings',
  ],
  seeds: async () => {
    const positive = (name: string, count: number): PlainTensor => ({
      ...plain(name, count),
      data: Buffer.from(Float32Array.from({ length: count }, (_, i) => i % 4).buffer),
    });
    const tensors = [
      ...[plain('parameter|a', 6), plain('mean|a', 6), positive('square|a', 6)],
      ...[plain('parameter|b', 4), plain('mean|b', 4), positive('square|b', 4)],
      ...[positive('optimizer_steps', 2), plain('loss', 3), positive('embedding_norm', 3)],
    ];
    const header = {
      format: 'edlora-training-state',
      step: '3',
      stopped: 'false',
      settings: JSON.stringify(SETTINGS),
    };
    return [
      [safetensors('state.safetensors', tensors, { ...header, sha256: hashOf(header, tensors) })],
      // As earlier versions wrote it.
      [safetensors('state.safetensors', tensors, header)],
    ];
  },
  repair: rehashed(null),
  run: async ({ file }) => {
    const parameters = (['a', 'b'] as const).map((name) => {
      return { name, group: 'unet' as const, data: new Float32Array(name === 'a' ? 6 : 4) };
    });
    const optimizer = new Map(parameters.map(({ name, data }) => [name, adamwState(data.length)]));
    const state: RunState = { step: 0, stopped: false, optimizer, log: [] };
    await restoreState(file, SETTINGS, parameters, state);
  },
};

export const stateTargets: readonly Target[] = [statistics, partial, trainingState];
