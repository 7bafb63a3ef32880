/** Statistics as large as a collection's, with random numbers: what solving from them costs. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { nameInStage, STAGES, type Stage, stageOf } from '../../src/fusion/stage.ts';
import {
  type StageStatistics,
  type Statistics,
  statisticsOf,
} from '../../src/fusion/statistics/statistics.ts';
import { writeStatistics } from '../../src/fusion/statistics/statistics-file.ts';
import { RECIPE_VERSION, type StatisticsKey } from '../../src/fusion/statistics/statistics-recipe.ts';
import { GramAccumulator, type GramTerm } from '../../src/linalg/gram.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { CONCEPT_LAYERS } from './random-concepts.ts';
import { LORA_LAYERS } from './random-loras.ts';
import { benchCache } from './random-model.ts';

/** Rows of a concept's words in all prompts. */
const WORD_ROWS = 12;
/** Of the random features; the Gram matrix gets the unit matrix on top. */
const FEATURE_ROWS = 64;

/** Whose statistics. */
export interface StatisticsSubject {
  /** In the file's name; anew whenever the numbers change. */
  readonly name: string;
  readonly layers: typeof LORA_LAYERS;
  readonly scopes: StatisticsKey['layers'];
  /** Features of a token. */
  readonly wordWidth: number;
}

/** One SDXL LoRA on all its layers (8 GB, about a minute). */
export const SDXL_LORA: StatisticsSubject = {
  name: 'random-sdxl-v1',
  layers: LORA_LAYERS,
  scopes: { text: 'none', cross: 'attention', spatial: 'linear' },
  wordWidth: 2048,
};

/** One ED-LoRA of SD 1.5 on all attention linears. */
export const SD15_CONCEPT: StatisticsSubject = {
  name: 'random-sd15-v1',
  layers: CONCEPT_LAYERS,
  scopes: { text: 'attention', cross: 'attention', spatial: 'attention' },
  wordWidth: 768,
};

/** The file; made on the first call. */
export async function ensureRandomStatistics({
  name,
  layers,
  scopes,
  wordWidth,
}: StatisticsSubject): Promise<string> {
  const file = path.join(benchCache(), `${name}.stats.safetensors`);
  if (existsSync(file)) return file;
  process.stderr.write(`generating statistics in ${file} …\n`);
  const grams = new Map<number, GramTerm>();
  const gramOf = (width: number): GramTerm => {
    const known = grams.get(width) ?? randomGram(width);
    grams.set(width, known);
    return known;
  };
  const words = { features: matrix(WORD_ROWS, wordWidth, randomNumbers(WORD_ROWS * wordWidth)) };
  const stages = Object.fromEntries(
    STAGES.map((stage): [Stage, StageStatistics] => {
      const inputOf = new Map<string, string>();
      const terms = new Map<string, GramTerm>();
      for (const layer of layers.filter((candidate) => stageOf(candidate) === stage)) {
        const own = nameInStage(stage, layer.component, layer.layerName);
        const input = inputNamed(own);
        inputOf.set(own, input);
        terms.set(input, stage === 'cross' ? words : gramOf(layer.n));
      }
      const rows = new Map([...terms.keys()].map((input) => [input, stage === 'cross' ? WORD_ROWS : 40_960]));
      return [stage, statisticsOf(inputOf, rows, terms)];
    }),
  );
  await writeStatistics(file, recipeOf(scopes), stages as Statistics);
  return file;
}

/** Queries, keys and values of a self-attention read one input; so do keys and values of a cross-attention. */
const inputNamed = (layerName: string): string =>
  layerName
    .replace(/attn1\.to_[kv]$/, 'attn1.to_q')
    .replace(/attn2\.to_v$/, 'attn2.to_k')
    .replace(/self_attn\.[kv]_proj$/, 'self_attn.q_proj');

const recipeOf = (layers: StatisticsKey['layers']): StatisticsKey => ({
  version: RECIPE_VERSION,
  base: [],
  networks: '',
  schedule: '',
  subject: { kind: 'base', captions: [], tokens: '' },
  layers,
  options: { steps: 20, seed: 0, promptTemplates: [], runs: 2, guidanceScale: 4, contrast: 2.5, size: null },
});

function randomNumbers(count: number): Float64Array {
  return Float64Array.from(new TorchGenerator(7).randn(count));
}

function randomGram(width: number): GramTerm {
  const sum = new GramAccumulator(width);
  sum.addRows(randomNumbers(FEATURE_ROWS * width));
  const { size, packed } = sum.toPacked();
  for (let i = 0, at = 0; i < size; at += size - i, i++) packed[at]! += 1;
  return { size, packed };
}
