/**
 * ‖ΔW‖² of a layer from its factors: nothing is written out, so that looking at a file costs no more than its factors do.
 */
import type { AdapterLayer, FullFactor, PairFactor } from '../adapters/adapter.ts';
import {
  denseSteps,
  layerDeltaSteps,
  loraFactors,
  needsBase,
  pairMatrices,
  refuseExcess,
  refuseUnequalProducts,
} from '../adapters/delta.ts';
import { readFinite } from '../adapters/finite.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { innerProductSteps, type LowRank } from '../linalg/low-rank.ts';
import { addScaled, dot } from '../linalg/products.ts';
import type { Steps } from '../pace.ts';

/**
 * ‖ΔW‖_F² at strength 1, scales inside.
 * @param base as `layerDelta` takes it
 * @throws {ShapeError | MismatchError | FormatError} as `layerDelta`
 */
export function* squaredNormSteps(layer: AdapterLayer, base?: RawTensor): Steps<number> {
  refuseExcess(layer);
  if (layer.biasDiff !== null) readFinite(layer.biasDiff);
  const squares = needsBase(layer)
    ? yield* wholeSquares(layer, base)
    : layer.scale ** 2 * (yield* unscaledSquares(layer));
  return Math.max(0, squares);
}

/** Kinds that are defined over the base: their change is as large as that. */
function* wholeSquares(layer: AdapterLayer, base: RawTensor | undefined): Steps<number> {
  const delta = yield* layerDeltaSteps(layer, base);
  return delta.scale ** 2 * sumOfSquares((yield* denseSteps(delta)).data);
}

function* unscaledSquares(layer: AdapterLayer): Steps<number> {
  switch (layer.kind) {
    case 'lora':
      return yield* productSquares(yield* loraFactors(layer.up, layer.down, layer.mid));
    case 'loha': {
      const [x, y] = [yield* pairMatrices(layer.w1), yield* pairMatrices(layer.w2)];
      refuseUnequalProducts(layer, x, y);
      return yield* rowSquares(x, y);
    }
    case 'lokr':
      // ‖X ⊗ Y‖ = ‖X‖ ‖Y‖.
      return (yield* factorSquares(layer.w1)) * (yield* factorSquares(layer.w2));
    case 'diff':
      return sumOfSquares(readFinite(layer.diff));
    default:
      throw new Error(`internal: ${layer.kind} needs its base`);
  }
}

function* factorSquares(factor: PairFactor | FullFactor): Steps<number> {
  return 'full' in factor
    ? sumOfSquares(readFinite(factor.full))
    : yield* productSquares(yield* pairMatrices(factor));
}

/** By the Gram matrices of the factors, or row by row where there are more factors than rows or columns. */
function* productSquares(delta: LowRank): Steps<number> {
  const { up, down } = delta;
  return up.cols <= Math.min(up.rows, down.cols)
    ? yield* innerProductSteps(delta, delta)
    : yield* rowSquares(delta, null);
}

/** ‖A‖², or ‖A ∘ B‖², one row in memory at a time. */
function* rowSquares(a: LowRank, b: LowRank | null): Steps<number> {
  const n = a.down.cols;
  const [row, other] = [new Float64Array(n), new Float64Array(n)];
  let squares = 0;
  for (let i = 0; i < a.up.rows; i++) {
    productRow(a, i, row);
    if (b !== null) {
      productRow(b, i, other);
      for (let j = 0; j < n; j++) row[j]! *= other[j]!;
    }
    squares += dot(row, 0, row, 0, n);
    yield;
  }
  return squares;
}

function productRow({ up, down }: LowRank, i: number, target: Float64Array): void {
  target.fill(0);
  for (let k = 0; k < up.cols; k++) {
    addScaled(up.data[i * up.cols + k]!, down.data, k * down.cols, target, 0, down.cols);
  }
}

function sumOfSquares(values: Float64Array): number {
  return dot(values, 0, values, 0, values.length);
}
