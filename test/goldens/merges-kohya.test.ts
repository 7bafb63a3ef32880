import { describe, expect, it } from 'vitest';
import type { AdapterLayer } from '../../src/adapters/adapter.ts';
import { layerDelta } from '../../src/adapters/delta.ts';
import { collectAdapterLayers } from '../../src/adapters/layer-parts.ts';
import { parseAdapterName } from '../../src/adapters/schemes/names.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { type RawTensor, readFloat64, renamed } from '../../src/formats/raw-tensor.ts';
import { type LowRank, scale, toDense, truncate } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { multiply } from '../../src/linalg/products.ts';
import { blockFactor, blockOf, parseBlockWeights } from '../../src/merging/block-weights.ts';
import { weightedSum } from '../../src/merging/factors.ts';
import {
  clampedSvd,
  type ForeignMergeName,
  foreignMerges,
  type StoredTerm,
} from '../../src/merging/foreign-merges.ts';
import { keptRank, type RankRule } from '../../src/merging/kept-rank.ts';
import { truncateDense } from '../../src/merging/range-finder.ts';
import { resizeDelta } from '../../src/merging/resize.ts';
import { inOneGo } from '../../src/pace.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { relativeError } from '../support/close.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface Case {
  models?: string[];
  ratios?: number[];
  concat?: boolean;
  lbws?: string[];
  rank?: Record<string, number>;
  new_rank?: number;
  new_conv_rank?: number;
  dynamic_method?: string | null;
  dynamic_param?: number | null;
  dim?: number;
  conv_dim?: number | null;
}
interface Index {
  models: Record<string, Record<string, { rank: number; alpha: number | null }>>;
  cases: Record<string, Case>;
  lbw_index: Record<string, number>;
  rank_index_vectors: { S: number[]; method: string; target: number; max_rank: number; new_rank: number }[];
}

const index = goldenJson<Index>('goldens-fusion/merges/kohya/kohya.json');
const file = await openTensorFile(goldenPath('goldens-fusion/merges/kohya/kohya.safetensors'));
const values = (name: string): Float64Array => readFloat64(file.tensors.get(name)!);

/** The layers of an input model, by kohya name. */
function layersOf(model: string): Map<string, AdapterLayer> {
  const prefix = `input|${model}|`;
  const tensors = [...file.tensors.values()]
    .filter(({ name }) => name.startsWith(prefix))
    .map((tensor) => renamed(tensor, tensor.name.slice(prefix.length)));
  const { layers } = collectAdapterLayers(model, tensors, {
    architecture: 'sd1',
    parse: (name) => parseAdapterName(name, { architecture: 'sd1' }),
    scale: (_, rank, alpha) => (alpha ?? rank) / rank,
  });
  return new Map(
    Object.keys(index.models[model]!).map((name) => {
      const { component, layerName } = parseAdapterName(`${name}.alpha`, { architecture: 'sd1' })!;
      return [name, layers.get(`${component}:${layerName}`)!];
    }),
  );
}

const models = new Map(Object.keys(index.models).map((model) => [model, layersOf(model)]));

function termsOf({ models: inputs, ratios, lbws = [] }: Case, name: string): StoredTerm[] {
  return inputs!.map((model, i) => {
    const layer = models.get(model)!.get(name)!;
    const weights = lbws[i] === undefined ? null : parseBlockWeights(lbws[i].slice(1, -1), 'sd1');
    return {
      ...layerDelta(layer),
      loraAlpha: layer.scale * layer.rank!,
      strength: ratios![i]! * (weights === null ? 1 : blockFactor(weights, 'sd1', layer)),
    };
  });
}

const casesOf = (test: (name: string) => boolean): [string, Case][] =>
  Object.entries(index.cases).filter(([name]) => test(name));
const modulesOf = (name: string): string[] => [
  ...new Set(
    [...file.tensors.keys()]
      .filter((key) => key.startsWith(`${name}|lora_`))
      .map((key) => key.slice(name.length + 1).split('|')[0]!),
  ),
];

describe('what sd-scripts makes of a merge', () => {
  it.each(casesOf((name) => /^merge_(linear|concat)/.test(name)))('%s', (name, entry) => {
    const tool: ForeignMergeName = entry.concat === true ? 'kohya-concat' : 'kohya-merge';
    expect(modulesOf(name).length).toBeGreaterThan(0);
    for (const module of modulesOf(name)) {
      const merged = inOneGo(foreignMerges[tool].merge(termsOf(entry, module)));
      expect(toDense(merged).data).toBeAllClose(values(`${name}|${module}|delta`), { rtol: 1e-6 });
    }
  });

  it.each(casesOf((name) => name.startsWith('svd_merge')))('%s', (name, entry) => {
    for (const module of modulesOf(name)) {
      const total = inOneGo(weightedSum(termsOf(entry, module)));
      const before = file.tensors.has(`${name}|${module}|before_svd`);
      if (before)
        expect(toDense(total).data).toBeAllClose(values(`${name}|${module}|before_svd`), { rtol: 1e-6 });
      const { singularValues } = truncate(total, total.up.cols);
      if (file.tensors.has(`${name}|${module}|singular_values`)) {
        const stored = values(`${name}|${module}|singular_values`).slice(0, singularValues.length);
        expect(singularValues).toBeAllClose(stored, { rtol: 1e-6 });
      }
      const rank = entry.rank![module]!;
      const expected = file.tensors.get(`${name}|${module}|delta`);
      if (expected === undefined || rank > 6 || singularValues.length < rank) continue;
      // The clamp depends on the vectors' signs, which any SVD may choose: one choice must give the stored result.
      const errors = Array.from({ length: 2 ** rank }, (_, bits) => {
        const signs = Array.from({ length: rank }, (_, k) => ((bits >> k) & 1 ? -1 : 1));
        return relativeError(
          toDense(inOneGo(clampedSvd(total, rank, 0.99, signs))).data,
          readFloat64(expected),
        );
      });
      expect(Math.min(...errors)).toBeLessThan(1e-6);
    }
  });

  it('counts blocks alike', () => {
    const names = ['BASE', ...range('IN', 12), 'MID', ...range('OUT', 12)];
    for (const [name, place] of Object.entries(index.lbw_index)) {
      expect(blockOf('sd1', parseAdapterName(`${name}.alpha`, { architecture: 'sd1' })!)).toBe(names[place]);
    }
  });

  function range(part: string, count: number): string[] {
    return Array.from({ length: count }, (_, i) => part + String(i).padStart(2, '0'));
  }
});

function ruleOf(method: string | null | undefined, target: number | null | undefined): RankRule {
  return method === null || method === undefined
    ? { kind: 'rank' }
    : { kind: method.replace('_', '-') as 'sv-ratio', target: target! };
}

describe('resizing as sd-scripts', () => {
  it('keeps the same number of singular values', () => {
    expect(index.rank_index_vectors.length).toBeGreaterThan(0);
    for (const { S, method, target, max_rank, new_rank } of index.rank_index_vectors) {
      expect(keptRank(S, ruleOf(method, target), max_rank)).toBe(new_rank);
    }
  });

  it.each(casesOf((name) => name.startsWith('resize_')))('%s', async (name, entry) => {
    const model = name.split('|')[1]!;
    for (const [module, layer] of models.get(model)!) {
      const delta: LowRank = layerDelta(layer);
      const rule = ruleOf(entry.dynamic_method, entry.dynamic_param);
      const ranks = { rule, rank: entry.new_rank!, convRank: entry.new_conv_rank! };
      const resized = await resizeDelta(delta, layer.kernel !== null, ranks, async (a, b) => multiply(a, b));
      // On purpose: sd-scripts fills ranks beyond the input's with rounding noise; here they end.
      expect(resized.rank).toBe(Math.min(entry.rank![module]!, layer.rank!));
      const spectrum = values(`resize_input_singular_values|${model}|${module}`);
      expect(resized.singularValues).toBeAllClose(spectrum.slice(0, layer.rank!), { rtol: 1e-6 });
      const stored = file.tensors.get(`${name}|${module}|delta`);
      if (stored === undefined) continue;
      expect(toDense(scale(resized.delta, layer.scale)).data).toBeAllClose(readFloat64(stored), {
        rtol: 2e-6,
      });
    }
  });
});

describe('extracting as sd-scripts, without its clamp', () => {
  const generator = new TorchGenerator(0);
  const options = {
    engine: async (a: Parameters<typeof multiply>[0], b: Parameters<typeof multiply>[1]) => multiply(a, b),
    gaussians: (count: number) => generator.randnFloat64Steps(count),
  };
  const weightOf = (side: string, module: string): RawTensor => {
    const { component, layerName } = parseAdapterName(`${module}.alpha`, { architecture: 'sd1' })!;
    return file.tensors.get(`extract|${side}|${component === 'unet' ? 'unet' : 'te'}.${layerName}.weight`)!;
  };

  it.each(casesOf((name) => name.startsWith('extract_')))('%s', async (name, entry) => {
    expect(modulesOf(name).length).toBeGreaterThan(0);
    for (const module of modulesOf(name)) {
      const tuned = weightOf('tuned', module);
      const before = readFloat64(weightOf('original', module));
      const difference = readFloat64(tuned).map((value, i) => value - before[i]!);
      const dense = matrix(tuned.shape[0]!, difference.length / tuned.shape[0]!, difference);
      const isConv = tuned.shape.length === 4 && tuned.shape[2]! > 1;
      const rank = Math.min(isConv ? entry.conv_dim! : entry.dim!, dense.rows, dense.cols);
      const { delta, relativeError: stated } = await truncateDense(dense, rank, options);
      const own = relativeError(toDense(delta).data, difference);
      expect(own).toBeCloseTo(stated, 6);
      // On purpose: the stored result is clamped at a quantile, and so never nearer to the difference.
      expect(own).toBeLessThanOrEqual(relativeError(values(`${name}|${module}|delta`), difference) + 1e-6);
    }
  });
});
