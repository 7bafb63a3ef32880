/** Parametrisations: their gradients against slopes, what they mean, and what steps leave out. */
import { describe, expect, it } from 'vitest';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { inOneGo } from '../../src/pace.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import type { FactorGradients } from '../../src/training/factor-gradients.ts';
import {
  fullWeight,
  type LayerFactors,
  lohaFactors,
  loraFactors,
  orthogonalFactors,
  type RankMask,
} from '../../src/training/factors.ts';
import { densityPenalty } from '../../src/training/kernel-density.ts';
import { orthogonalRows } from '../../src/training/orthogonal-rows.ts';
import { drawMasks } from '../../src/training/rank-masks.ts';
import type { TrainedLayer } from '../../src/training/trained-layers.ts';

const layer: TrainedLayer = {
  component: 'unet',
  layerName: 'down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k',
  m: 5,
  n: 4,
  kernel: null,
  rank: 3,
  scale: 0.7,
};
const random = new TorchGenerator(5);
const filled = (factors: LayerFactors): LayerFactors => {
  for (const data of factors.parameters.values()) data.set(random.randn(data.length));
  return factors;
};
const weight = float32Tensor('w', [layer.m, layer.n], random.randn(layer.m * layer.n));

const all: [string, () => LayerFactors][] = [
  ['LoRA', () => filled(loraFactors(layer, random))],
  ['orthogonal', () => filled(orthogonalFactors(layer, orthogonalRows('layer', 'me', layer.rank, layer.n)))],
  ['LoHa', () => filled(lohaFactors(layer, random))],
  ['whole weight', () => filled(fullWeight(layer, weight))],
];

/** up · down, [m, n] in float64. */
function product({ up, down }: FactorGradients): Float64Array {
  const rank = up.length / layer.m;
  const n = down.length / rank;
  return Float64Array.from({ length: layer.m * n }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += up[Math.floor(i / n) * rank + k]! * down[k * n + (i % n)]!;
    return sum;
  });
}

describe.each(all)('%s', (_, make) => {
  it.each([
    ['all', () => null],
    ['masked', (rank: number) => Float32Array.from({ length: rank }, (_, i) => (i % 2 === 0 ? 1.5 : 0))],
  ] as [string, (rank: number) => RankMask][])('gradients are slopes, %s ranks', (_, maskOf) => {
    const factors = make();
    const mask = maskOf(factors.graphRank);
    const direction = new TorchGenerator(9).randn(layer.m * layer.n);
    // f = ⟨direction, up · down⟩, so dUp = direction · downᵀ and dDown = upᵀ · direction.
    const value = (): number =>
      product(factors.factors(mask)).reduce((sum, x, i) => sum + x * direction[i]!, 0);
    const { up, down } = factors.factors(mask);
    const rank = factors.graphRank;
    const dUp = new Float32Array(up.length);
    const dDown = new Float32Array(down.length);
    for (let i = 0; i < layer.m; i++) {
      for (let j = 0; j < layer.n; j++) {
        for (let k = 0; k < rank; k++) {
          dUp[i * rank + k]! += direction[i * layer.n + j]! * down[k * layer.n + j]!;
          dDown[k * layer.n + j]! += direction[i * layer.n + j]! * up[i * rank + k]!;
        }
      }
    }
    const gradients = factors.backward({ down: dDown, up: dUp }, mask);
    for (const [name, data] of factors.parameters) {
      const along = new TorchGenerator(3).randn(data.length);
      const start = data.slice();
      const at = (step: number): number => {
        data.set(start.map((x, i) => x + step * along[i]!));
        const result = value();
        data.set(start);
        return result;
      };
      const slope = (at(1e-2) - at(-1e-2)) / 2e-2;
      const expected = gradients.get(name)!.reduce((sum, d, i) => sum + d * along[i]!, 0);
      expect(Math.abs(slope - expected), name).toBeLessThan(2e-3 * (1 + Math.abs(expected)));
    }
  });

  it('writes what it trained', () => {
    const factors = make();
    const { up, down, rank } = inOneGo(factors.merged());
    expect(up.length).toBe(layer.m * rank);
    const asRun = product(factors.factors(null));
    if (rank >= Math.min(layer.m, layer.n) || factors.graphRank === rank) {
      expect(product({ up, down })).toBeAllClose(asRun, { rtol: 1e-5 });
    } else {
      // Cut to the asked rank: a projection never grows.
      const norm = (x: Float64Array): number => Math.hypot(...x);
      expect(norm(product({ up, down }))).toBeLessThanOrEqual(norm(asRun) * (1 + 1e-6));
    }
  });
});

it('factors change nothing at the start', () => {
  for (const start of [loraFactors(layer, random), lohaFactors(layer, random), fullWeight(layer, weight)]) {
    expect(product(start.factors(null)).every((x) => x === 0)).toBe(true);
  }
});

it('start as PyTorch and LyCORIS start them', () => {
  const wide = { ...layer, m: 400, n: 300 };
  const { rank } = wide;
  const spread = (data: Float32Array): number =>
    Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length);
  const lora = loraFactors(wide, new TorchGenerator(1)).parameters;
  const down = lora.get('down')!;
  expect(down).toHaveLength(rank * wide.n);
  expect(Math.max(...down)).toBeLessThanOrEqual(1 / Math.sqrt(wide.n));
  expect(Math.min(...down)).toBeGreaterThanOrEqual(-1 / Math.sqrt(wide.n));
  expect(spread(down)).toBeCloseTo(1 / Math.sqrt(3 * wide.n), 2);
  const loha = lohaFactors(wide, new TorchGenerator(1)).parameters;
  const starts = { a1: [wide.m, 0.1], b1: [wide.n, 1], a2: [wide.m, 0], b2: [wide.n, 1] } as const;
  for (const [name, [size, deviation]] of Object.entries(starts)) {
    expect(loha.get(name), name).toHaveLength(rank * size);
    expect(Math.abs(spread(loha.get(name)!) - deviation), name).toBeLessThan(0.1 * deviation + 1e-9);
  }
});

it('LoHa is the Hadamard product of two products', () => {
  const factors = filled(lohaFactors(layer, random));
  const of = (a: string, b: string): Float64Array =>
    product({ up: factors.parameters.get(a)!, down: factors.parameters.get(b)! });
  const [first, second] = [of('a1', 'b1'), of('a2', 'b2')];
  const expected = first.map((x, i) => layer.scale * x * second[i]!);
  expect(product(factors.factors(null))).toBeAllClose(expected, { rtol: 1e-5 });
});

describe('what a step leaves out', () => {
  const none = { factors: 'lora', rankDropout: 0, moduleDropout: 0, kvDrop: 0 } as const;
  const layers = [loraFactors(layer, random), loraFactors({ ...layer, layerName: 'mid.attn1.to_q' }, random)];
  it('nothing by itself', () => {
    expect(drawMasks(layers, none, new TorchGenerator(1))).toEqual([null, null]);
  });
  it('K and V of cross-attention alone, whole layers, single ranks scaled up', () => {
    const zeros = new Float32Array(layer.rank);
    expect(drawMasks(layers, { ...none, kvDrop: 1 }, new TorchGenerator(1))).toEqual([zeros, null]);
    expect(drawMasks(layers, { ...none, moduleDropout: 1 }, new TorchGenerator(1))).toEqual([zeros, zeros]);
    const masks = Array.from({ length: 50 }, (_, seed) =>
      drawMasks(layers, { ...none, rankDropout: 0.5 }, new TorchGenerator(seed)),
    ).flatMap((pair) => pair.flatMap((mask) => [...mask!]));
    expect(new Set(masks)).toEqual(new Set([0, 2]));
  });
  it('DyLoRA keeps a prefix of its ranks, each length in turn', () => {
    const lengths = new Set<number>();
    for (let seed = 0; seed < 40; seed++) {
      const mask = drawMasks(layers, { ...none, factors: 'dylora' }, new TorchGenerator(seed))[0]!;
      const kept = mask === null ? layer.rank : mask.indexOf(0);
      if (mask !== null) expect([...mask.slice(0, kept)].every((x) => x === 1)).toBe(true);
      lengths.add(kept);
    }
    expect([...lengths].sort()).toEqual([1, 2, 3]);
  });
});

describe('kernel density', () => {
  const [words, width, bandwidth] = [40, 3, 0.5];
  const table = new TorchGenerator(7).randn(words * width).map((x) => 0.3 * x);
  const rows = new TorchGenerator(8).randn(2 * width);
  /** The definition, kernel by kernel. */
  const direct = (at: Float32Array): number => {
    let total = 0;
    for (let r = 0; r < 2; r++) {
      let density = 0;
      for (let d = 0; d < width; d++) {
        for (let v = 0; v < words; v++) {
          const u = (at[r * width + d]! - table[v * width + d]!) / bandwidth;
          density += Math.exp(-0.5 * u * u) / (Math.sqrt(2 * Math.PI) * bandwidth) / words;
        }
      }
      total -= Math.log(density);
    }
    return total;
  };
  it('agrees with the sum over all words, and so does its gradient', () => {
    const gradient = new Float32Array(rows.length);
    const value = densityPenalty(table, width, bandwidth).penalize(rows, gradient, 0.5);
    expect(value).toBeCloseTo(0.5 * direct(rows), 4);
    gradient.forEach((d, i) => {
      const at = (step: number): number => direct(rows.with(i, rows[i]! + step));
      expect(d).toBeCloseTo((0.5 * (at(1e-2) - at(-1e-2))) / 2e-2, 3);
    });
  });
});

describe('orthogonal rows', () => {
  const n = 24;
  const inner = (a: Float32Array, i: number, b: Float32Array, j: number): number => {
    let sum = 0;
    for (let k = 0; k < n; k++) sum += a[i * n + k]! * b[j * n + k]!;
    return sum;
  };

  it('are orthonormal, all that a layer has', () => {
    const rows = orthogonalRows('layer', 'me', n, n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++)
        expect(inner(rows, i, rows, j), `${i}, ${j}`).toBeCloseTo(i === j ? 1 : 0, 5);
    }
  });

  it('of two owners come from one matrix, and are different ones; the same owner gets the same', () => {
    const [mine, yours] = [orthogonalRows('layer', 'me', 4, n), orthogonalRows('layer', 'you', 4, n)];
    const shared = [0, 1, 2, 3].flatMap((i) => [0, 1, 2, 3].map((j) => Math.abs(inner(mine, i, yours, j))));
    for (const value of shared) expect(Math.min(value, Math.abs(value - 1))).toBeLessThan(1e-5);
    expect(shared.filter((value) => value > 0.5).length).toBeLessThan(4);
    expect(orthogonalRows('layer', 'me', 4, n)).toEqual(mine);
    expect(orthogonalRows('another layer', 'me', 4, n)).not.toEqual(mine);
  });

  it('are refused where a layer has not so many', () => {
    expect(() => orthogonalRows('layer', 'me', n + 1, n)).toThrow(/rank: layer has 24 inputs/);
  });
});
