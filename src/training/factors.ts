/**
 * What is trained in a layer, and how it becomes the factors that the graph takes: up · down, scale inside. Every
 * parametrisation is a pair of plain functions, factors and the way back of their gradients.
 */

import type { MergedLayer } from '../concepts/lora-file.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { readFloat32 } from '../formats/raw-tensor.ts';
import { truncateSteps } from '../linalg/low-rank.ts';
import { identity, matrix } from '../linalg/matrix.ts';
import type { Steps } from '../pace.ts';
import type { TorchGenerator } from '../tensor/random.ts';
import type { FactorGradients } from './factor-gradients.ts';
import type { TrainedLayer } from './trained-layers.ts';

/** Multiplies the factors' columns in one step, [graphRank]; zeros drop them. Null: all ones. */
export type RankMask = Float32Array | null;

export interface LayerFactors {
  readonly layer: TrainedLayer;
  /** Rank of the factors that the graph takes. */
  readonly graphRank: number;
  /** Trained numbers by name; changed in place. */
  readonly parameters: ReadonlyMap<string, Float32Array>;
  /** down [graphRank, n], up [m, graphRank]; the mask is in up. */
  factors(mask: RankMask): FactorGradients;
  /** Gradients of the parameters, given those of `factors(mask)`. */
  backward(d: FactorGradients, mask: RankMask): Map<string, Float32Array>;
  /** The change as it is written to a file. */
  merged(): Steps<MergedLayer>;
}

const masked = (up: Float32Array, rank: number, scale: number, mask: RankMask): Float32Array =>
  up.map((value, i) => value * scale * (mask?.[i % rank] ?? 1));

/** Uniform in ±1/√fanIn: PyTorch's kaiming_uniform with a = √5. */
function kaimingUniform(random: TorchGenerator, count: number, fanIn: number): Float32Array {
  const bound = 1 / Math.sqrt(fanIn);
  return random.rand(count, -bound, bound);
}

/** LoRA (2106.09685): down starts random, up at zero. */
export function loraFactors(layer: TrainedLayer, random: TorchGenerator): LayerFactors {
  const { component, layerName, m, n, rank, scale, kernel } = layer;
  const down = kaimingUniform(random, rank * n, n);
  const up = new Float32Array(m * rank);
  return {
    layer,
    graphRank: rank,
    parameters: new Map([
      ['down', down],
      ['up', up],
    ]),
    factors: (mask) => ({ down, up: masked(up, rank, scale, mask) }),
    backward: (d, mask) =>
      new Map([
        ['down', d.down],
        ['up', masked(d.up, rank, scale, mask)],
      ]),
    *merged() {
      yield;
      const scaled = up.map((value) => value * scale);
      return { component, layerName, up: scaled, down: down.slice(), rank, kernel };
    },
  };
}

/**
 * A LoRA whose inputs are settled beforehand (2312.02432): down stays what it is, up is trained from zero.
 * @param down orthonormal rows [rank, n], of which no other concept has any
 */
export function orthogonalFactors(layer: TrainedLayer, down: Float32Array): LayerFactors {
  const { component, layerName, m, rank, scale, kernel } = layer;
  const up = new Float32Array(m * rank);
  return {
    layer,
    graphRank: rank,
    parameters: new Map([['up', up]]),
    factors: (mask) => ({ down, up: masked(up, rank, scale, mask) }),
    backward: (d, mask) => new Map([['up', masked(d.up, rank, scale, mask)]]),
    *merged() {
      yield;
      return { component, layerName, up: up.map((value) => value * scale), down: down.slice(), rank, kernel };
    },
  };
}

/**
 * LoHa (2108.06098, LyCORIS): ΔW = scale · (A₁ B₁) ∘ (A₂ B₂). The product of two rank-r matrices is exactly a
 * product of rank r²: column (i, j) of up is A₁[:, i] ∘ A₂[:, j], row (i, j) of down is B₁[i] ∘ B₂[j].
 */
export function lohaFactors(layer: TrainedLayer, random: TorchGenerator): LayerFactors {
  const { component, layerName, m, n, rank: r, scale, kernel } = layer;
  const graphRank = r * r;
  const normal = (count: number, deviation: number): Float32Array =>
    random.randn(count).map((value) => value * deviation);
  const [a1, b1] = [normal(m * r, 0.1), normal(r * n, 1)];
  const [a2, b2] = [new Float32Array(m * r), normal(r * n, 1)];
  const product = (): FactorGradients => {
    const up = new Float32Array(m * graphRank);
    const down = new Float32Array(graphRank * n);
    for (let row = 0; row < m; row++) {
      for (let k = 0; k < graphRank; k++) {
        up[row * graphRank + k] = scale * a1[row * r + Math.floor(k / r)]! * a2[row * r + (k % r)]!;
      }
    }
    for (let k = 0; k < graphRank; k++) {
      const [first, second] = [Math.floor(k / r) * n, (k % r) * n];
      for (let c = 0; c < n; c++) down[k * n + c] = b1[first + c]! * b2[second + c]!;
    }
    return { up, down };
  };
  return {
    layer,
    graphRank,
    parameters: new Map([
      ['a1', a1],
      ['b1', b1],
      ['a2', a2],
      ['b2', b2],
    ]),
    factors: (mask) => {
      const { up, down } = product();
      return { down, up: masked(up, graphRank, 1, mask) };
    },
    backward: (d, mask) => {
      const dUp = masked(d.up, graphRank, scale, mask);
      const [da1, da2] = [new Float32Array(m * r), new Float32Array(m * r)];
      const [db1, db2] = [new Float32Array(r * n), new Float32Array(r * n)];
      for (let row = 0; row < m; row++) {
        for (let k = 0; k < graphRank; k++) {
          const [i, j] = [row * r + Math.floor(k / r), row * r + (k % r)];
          const g = dUp[row * graphRank + k]!;
          da1[i]! += g * a2[j]!;
          da2[j]! += g * a1[i]!;
        }
      }
      for (let k = 0; k < graphRank; k++) {
        const [i, j] = [Math.floor(k / r) * n, (k % r) * n];
        for (let c = 0; c < n; c++) {
          const g = d.down[k * n + c]!;
          db1[i + c]! += g * b2[j + c]!;
          db2[j + c]! += g * b1[i + c]!;
        }
      }
      return new Map([
        ['a1', da1],
        ['b1', db1],
        ['a2', da2],
        ['b2', db2],
      ]);
    },
    *merged() {
      yield;
      return { component, layerName, ...product(), rank: graphRank, kernel };
    },
  };
}

/**
 * The whole weight (Custom Diffusion): up is W − W₀, down the identity, so the graph needs no other form and weight
 * decay acts on W as it does in the reference.
 * @param base W₀
 */
export function fullWeight(layer: TrainedLayer, base: RawTensor): LayerFactors {
  const { component, layerName, m, n } = layer;
  const start = readFloat32(base);
  const weight = start.slice();
  const down = Float32Array.from(identity(n).data);
  const change = (): Float32Array => weight.map((value, i) => value - start[i]!);
  return {
    layer,
    graphRank: n,
    parameters: new Map([['weight', weight]]),
    factors: (mask) => ({ down, up: masked(change(), n, 1, mask) }),
    backward: (d, mask) => new Map([['weight', masked(d.up, n, 1, mask)]]),
    *merged() {
      const delta = { up: matrix(m, n, Float64Array.from(change())), down: identity(n) };
      // A file holds factors: as many as the layer was asked to be written with, by the best approximation.
      const { delta: cut } = yield* truncateSteps(delta, Math.min(layer.rank, m, n));
      return {
        component,
        layerName,
        up: Float32Array.from(cut.up.data),
        down: Float32Array.from(cut.down.data),
        rank: cut.up.cols,
        kernel: layer.kernel,
      };
    },
  };
}
