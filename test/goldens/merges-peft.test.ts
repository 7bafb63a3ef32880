import { describe, expect, it } from 'vitest';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { type RawTensor, readFloat64 } from '../../src/formats/raw-tensor.ts';
import { toDense, truncate } from '../../src/linalg/low-rank.ts';
import { type Matrix, matrix } from '../../src/linalg/matrix.ts';
import { multiply } from '../../src/linalg/products.ts';
import { weightedSum } from '../../src/merging/factors.ts';
import {
  type MajoritySign,
  MERGE_DEFAULTS,
  type MergeContext,
  type MergeTerm,
} from '../../src/merging/method.ts';
import { mergeMethod } from '../../src/merging/methods/index.ts';
import { inOneGo, Pace } from '../../src/pace.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { relativeError } from '../support/close.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

interface Case {
  combination_type: string;
  adapters: string[];
  weights: number[];
  rank: number;
  svd_clamp?: number;
  density?: number;
  majority_sign_method?: MajoritySign;
}
interface Index {
  sets: Record<string, { adapters: string[]; scaling: number[] }>;
  cases: Record<string, Case>;
}

const index = goldenJson<Index>('goldens-fusion/merges/peft/peft.json');
const file = await openTensorFile(goldenPath('goldens-fusion/merges/peft/peft.safetensors'));
const asMatrix = (tensor: RawTensor): Matrix =>
  matrix(tensor.shape[0]!, readFloat64(tensor).length / tensor.shape[0]!, readFloat64(tensor));
const tensor = (name: string): RawTensor => file.tensors.get(name)!;

const rows = Object.entries(index.cases).flatMap(([name, entry]) => {
  const set = name.slice(0, name.indexOf('.'));
  const modules = new Set(
    [...file.tensors.keys()].filter((key) => key.startsWith(`${name}|`)).map((key) => key.split('|')[1]!),
  );
  return [...modules].map((module) => ({ name, module, set, entry }));
});

function terms(set: string, module: string, { adapters, weights }: Case): MergeTerm[] {
  const { adapters: all, scaling } = index.sets[set]!;
  return adapters.map((adapter, i) => ({
    up: asMatrix(tensor(`${set}|${module}|${adapter}|B`)),
    down: asMatrix(tensor(`${set}|${module}|${adapter}|A`)),
    scale: scaling[all.indexOf(adapter)]!,
    strength: weights[i]!,
  }));
}

/** The recorded masks, in the order in which the methods draw them. */
function recordedMasks(name: string, module: string, adapters: readonly string[]): Uint8Array[] {
  return ['A', 'B', 'delta'].flatMap((part) =>
    adapters.flatMap((adapter) => {
      const mask = file.tensors.get(`${name}|${module}|mask|${part}|${adapter}`);
      return mask === undefined ? [] : [Uint8Array.from(readFloat64(mask))];
    }),
  );
}

describe('adapters of PEFT are what its factors say', () => {
  it.each(Object.entries(index.sets))('%s', (set, { adapters }) => {
    const modules = new Set(
      [...file.tensors.keys()].filter((k) => k.startsWith(`${set}|`)).map((k) => k.split('|')[1]!),
    );
    for (const module of modules) {
      for (const adapter of adapters) {
        const [term] = terms(set, module, {
          adapters: [adapter],
          weights: [1],
          combination_type: '',
          rank: 0,
        });
        const expected = readFloat64(tensor(`${set}|${module}|${adapter}|delta`));
        expect(toDense(inOneGo(weightedSum([term!]))).data).toBeAllClose(expected, { rtol: 1e-6 });
      }
    }
  });
});

describe('merge methods against PEFT', () => {
  it.each(rows)('$name of $module', async ({ name, module, set, entry }) => {
    const masks = recordedMasks(name, module, entry.adapters);
    const generator = new TorchGenerator(0);
    const context: MergeContext = {
      ...MERGE_DEFAULTS,
      rank: entry.rank,
      ...(entry.density === undefined ? {} : { density: entry.density }),
      ...(entry.majority_sign_method === undefined ? {} : { majoritySign: entry.majority_sign_method }),
      // biome-ignore lint/correctness/useYield: nothing is drawn.
      *keepMask() {
        return masks.shift()!;
      },
      gaussians: (count) => generator.randnFloat64Steps(count),
      pace: new Pace(),
      engine: async (a, b) => multiply(a, b),
    };
    const method = mergeMethod(entry.combination_type.replaceAll('_', '-'));
    const inputs = terms(set, module, entry);
    const merged = await method.merge(inputs, context);
    expect(masks).toHaveLength(0);
    expect(merged.up.cols).toBeLessThanOrEqual(entry.rank);
    const expected = readFloat64(tensor(`${name}|${module}|delta`));
    if (entry.svd_clamp === undefined) {
      expect(toDense(merged).data).toBeAllClose(expected, { rtol: 1e-6 });
      return;
    }
    // On purpose: PEFT clamps U·S and V at a quantile after the SVD, which is then no longer the best approximation.
    const total = inOneGo(weightedSum(inputs));
    const sum = toDense(total).data;
    const best = truncate(total, entry.rank).relativeError;
    expect(relativeError(toDense(merged).data, sum)).toBeCloseTo(best, 8);
    expect(relativeError(expected, sum)).toBeGreaterThan(1.02 * best);
  });
});

it('names the nearest method', () => {
  expect(() => mergeMethod('dare_linear')).toThrow(
    'unknown merge method "dare_linear"; did you mean "dare-linear"?',
  );
});
