/**
 * The change that a layer of an adapter makes to a weight, exactly, as factors: ΔW = scale · up · down. Every kind of
 * layer has factors of some rank; where they are no smaller than ΔW itself, one of them is the identity and the other
 * ΔW written out. Kernels of convolutions are joined to the inputs: ΔW [m, n · kh · kw].
 *
 *   LoRA    up · down; with a Tucker core (LoCon) down'[i, (q, k)] = Σ_j core[i, j, k] down[j, q]
 *   LoHa    (A₁B₁) ∘ (A₂B₂) = (A₁ ⊙ A₂)(B₁ ⊙ B₂), products of rows and of columns (Khatri–Rao), of rank r²
 *   LoKr    W₁ ⊗ W₂ = (U₁ ⊗ U₂)(V₁ ⊗ V₂), of rank r₁ r₂
 *   (IA)³   diag(w) W₀, or W₀ diag(w) on inputs: w is added to 1
 *   DoRA    (W₀ + ΔW) diag(s) − W₀ with s = dora_scale / ‖W₀ + ΔW‖ per output or per input
 *
 * Source: KohakuBlueleaf/LyCORIS@f49d30d, lycoris/functional; scale is applied once, as its forward pass does (its
 * get_weight and merge apply alpha / rank of LoHa and LoKr twice).
 *
 * A strength multiplies ΔW, whatever the kind, as ComfyUI does. Differs from LyCORIS for DoRA, where only s moves with the
 * multiplier: at 0 its merge still leaves W₀ + ΔW.
 */

import { MismatchError, ShapeError } from '../errors.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { LowRank } from '../linalg/low-rank.ts';
import { identity, type Matrix, matrix, transpose } from '../linalg/matrix.ts';
import { multiplySteps } from '../linalg/products.ts';
import { type AdapterModule, adapterModuleId } from '../models/families/adapter-layers.ts';
import { inOneGo, type Steps } from '../pace.ts';
import { type AdapterLayer, type FullFactor, kernelArea, type PairFactor } from './adapter.ts';
import { readFinite } from './finite.ts';
import { excessOf } from './layer-limits.ts';

/** A change of one layer. */
export interface LayerDelta extends LowRank {
  /** Not yet inside the factors. */
  readonly scale: number;
  /** Change of the bias [m], not scaled by anything; `null` without. */
  readonly bias: Float64Array | null;
}

/** Base weights by layer, for kinds that are defined over them. */
export type BaseWeights = (module: AdapterModule) => RawTensor | undefined;

/** Whether a layer's change depends on the base weight. */
export function needsBase(layer: AdapterLayer): boolean {
  return layer.kind === 'ia3' || layer.kind === 'weight' || layer.doraScale !== null;
}

/**
 * ΔW of a layer at strength 1.
 * @param base W₀ [m, n] or [m, n, kh, kw]; needed where `needsBase`, otherwise unused
 * @throws {MismatchError} if the base is needed and not there
 * @throws {ShapeError} if factors do not fit each other or the base, or make more than a layer of this name can be
 * @throws {FormatError} if a number is not finite, naming the tensor
 */
export function layerDelta(layer: AdapterLayer, base?: RawTensor): LayerDelta {
  return inOneGo(layerDeltaSteps(layer, base));
}

/** ΔW of a layer at a strength, every scale inside `up`. @throws as `layerDelta` */
export function scaledDelta(layer: AdapterLayer, strength = 1): LowRank {
  const { up, down, scale } = layerDelta(layer);
  const factor = strength * scale;
  return {
    up: matrix(
      up.rows,
      up.cols,
      up.data.map((value) => value * factor),
    ),
    down,
  };
}

/** `layerDelta` in steps, to the same bits: layers whose factors are multiplied out take seconds. */
export function* layerDeltaSteps(layer: AdapterLayer, base?: RawTensor): Steps<LayerDelta> {
  refuseExcess(layer);
  const bias = layer.biasDiff === null ? null : readFinite(layer.biasDiff);
  const factors = yield* factorsOf(layer, base);
  if (layer.doraScale === null) return { ...factors, scale: layer.scale, bias };
  return { ...(yield* dora(layer, requireBase(layer, base), factors)), scale: 1, bias };
}

/** @throws {ShapeError} before anything is read, if a layer would be larger than its weight can be */
export function refuseExcess(layer: AdapterLayer): void {
  const excess = excessOf(layer, layer);
  if (excess !== null) throw new ShapeError(`${adapterModuleId(layer)}: ${excess}`);
}

/** Factors of ΔW / scale, magnitudes left aside. */
function* factorsOf(layer: AdapterLayer, base: RawTensor | undefined): Steps<LowRank> {
  switch (layer.kind) {
    case 'lora':
      return yield* loraFactors(layer.up, layer.down, layer.mid);
    case 'loha':
      return yield* hadamard(layer, yield* pairMatrices(layer.w1), yield* pairMatrices(layer.w2));
    case 'lokr':
      return yield* kronecker(yield* factorMatrices(layer.w1), yield* factorMatrices(layer.w2));
    case 'ia3':
      return ia3(layer, layer.weight, layer.onInput, requireBase(layer, base));
    case 'diff':
      return wholeDelta(asMatrix(layer.diff));
    case 'weight':
      return wholeDelta(difference(layer, asMatrix(layer.weight), requireBase(layer, base)));
  }
}

/** ΔW as two factors of the smaller possible rank, one of them the identity. */
export function wholeDelta(delta: Matrix): LowRank {
  return delta.rows < delta.cols
    ? { up: identity(delta.rows), down: delta }
    : { up: delta, down: identity(delta.cols) };
}

/** ΔW written out [m, n], in memory of its own; quick for what `wholeDelta` made. */
export function* denseSteps({ up, down }: LowRank): Steps<Matrix> {
  const [m, n] = [up.rows, down.cols];
  if (isIdentity(up)) return matrix(m, n, down.data.slice());
  if (isIdentity(down)) return matrix(m, n, up.data.slice());
  return yield* multiplySteps(up, down);
}

function isIdentity({ rows, cols, data }: Matrix): boolean {
  if (rows !== cols) return false;
  for (let i = 0, at = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++, at++) if (data[at] !== (i === j ? 1 : 0)) return false;
  }
  return true;
}

/** The first axis against all others. @throws {FormatError} as `readFinite` */
export function asMatrix(tensor: RawTensor): Matrix {
  const rows = tensor.shape[0]!;
  const values = readFinite(tensor);
  return matrix(rows, values.length / rows, values);
}

function requireBase(layer: AdapterLayer, base: RawTensor | undefined): Matrix {
  if (base === undefined) {
    const kind = layer.doraScale !== null ? 'DoRA' : layer.kind === 'ia3' ? '(IA)³' : 'a whole weight';
    throw new MismatchError(
      `${adapterModuleId(layer)}: ${kind} is a change only against the weight it was trained on; name the base model with \`base\``,
    );
  }
  return asMatrix(base);
}

/** Factors of plain LoRA, a Tucker core worked into the second. */
export function* loraFactors(up: RawTensor, down: RawTensor, mid: RawTensor | null): Steps<LowRank> {
  const own = asMatrix(up);
  yield;
  return { up: own, down: mid === null ? asMatrix(down) : yield* throughCore(mid, asMatrix(down)) };
}

/** Σ_j core[i, j, k] · b[j, q] as [i, (q, k)]. core [r, s, kh, kw], b [s, n]. */
function* throughCore(core: RawTensor, b: Matrix): Steps<Matrix> {
  const [r, s] = core.shape as [number, number];
  const values = readFinite(core);
  const area = values.length / (r * s);
  const out = matrix(r, b.cols * area);
  for (let i = 0; i < r; i++) {
    for (let j = 0; j < s; j++) {
      for (let q = 0; q < b.cols; q++) {
        const factor = b.data[j * b.cols + q]!;
        const to = i * out.cols + q * area;
        const from = (i * s + j) * area;
        for (let k = 0; k < area; k++) out.data[to + k]! += factor * values[from + k]!;
      }
      yield;
    }
  }
  return out;
}

/** A pair as [m, r] and [r, n · kh · kw], the core worked into the second. */
export function* pairMatrices({ a, b, core }: PairFactor): Steps<LowRank> {
  const own = asMatrix(a);
  yield;
  return core === null
    ? { up: own, down: asMatrix(b) }
    : { up: transpose(own), down: yield* throughCore(core, asMatrix(b)) };
}

function* factorMatrices(factor: PairFactor | FullFactor): Steps<LowRank> {
  return 'full' in factor ? wholeDelta(asMatrix(factor.full)) : yield* pairMatrices(factor);
}

/** @throws {ShapeError} if LoHa's two products have different shapes */
export function refuseUnequalProducts(layer: AdapterLayer, x: LowRank, y: LowRank): void {
  const [m, n] = [x.up.rows, x.down.cols];
  if (y.up.rows !== m || y.down.cols !== n) {
    throw new ShapeError(
      `${adapterModuleId(layer)}: expected two products of one shape, got [${m}, ${n}] and [${y.up.rows}, ${y.down.cols}]`,
    );
  }
}

function* hadamard(layer: AdapterLayer, x: LowRank, y: LowRank): Steps<LowRank> {
  refuseUnequalProducts(layer, x, y);
  const [m, n] = [x.up.rows, x.down.cols];
  const [r, s] = [x.up.cols, y.up.cols];
  if (r * s >= Math.min(m, n)) {
    const product = yield* multiplySteps(x.up, x.down);
    const other = (yield* multiplySteps(y.up, y.down)).data;
    for (let i = 0; i < other.length; i++) product.data[i]! *= other[i]!;
    return wholeDelta(product);
  }
  const up = matrix(m, r * s);
  for (let i = 0; i < m; i++) {
    for (let a = 0; a < r; a++) {
      const factor = x.up.data[i * r + a]!;
      for (let b = 0; b < s; b++) up.data[i * r * s + a * s + b] = factor * y.up.data[i * s + b]!;
    }
  }
  const down = matrix(r * s, n);
  yield;
  for (let a = 0; a < r; a++) {
    for (let b = 0; b < s; b++) {
      for (let j = 0; j < n; j++) {
        down.data[(a * s + b) * n + j] = x.down.data[a * n + j]! * y.down.data[b * n + j]!;
      }
    }
  }
  return { up, down };
}

function* kronecker(x: LowRank, y: LowRank): Steps<LowRank> {
  const rank = x.up.cols * y.up.cols;
  const [m, n] = [x.up.rows * y.up.rows, x.down.cols * y.down.cols];
  if (rank >= Math.min(m, n)) {
    const [left, right] = [yield* multiplySteps(x.up, x.down), yield* multiplySteps(y.up, y.down)];
    return wholeDelta(kroneckerProduct(left, right));
  }
  const up = kroneckerProduct(x.up, y.up);
  yield;
  return { up, down: kroneckerProduct(x.down, y.down) };
}

/** X ⊗ Y: element ((i, k), (j, l)) is X[i, j] · Y[k, l]. */
function kroneckerProduct(x: Matrix, y: Matrix): Matrix {
  const out = matrix(x.rows * y.rows, x.cols * y.cols);
  for (let i = 0; i < x.rows; i++) {
    for (let k = 0; k < y.rows; k++) {
      const row = (i * y.rows + k) * out.cols;
      for (let j = 0; j < x.cols; j++) {
        const factor = x.data[i * x.cols + j]!;
        for (let l = 0; l < y.cols; l++) {
          out.data[row + j * y.cols + l] = factor * y.data[k * y.cols + l]!;
        }
      }
    }
  }
  return out;
}

function ia3(layer: AdapterLayer, weight: RawTensor, onInput: boolean, base: Matrix): LowRank {
  const w = readFinite(weight);
  const area = kernelArea(layer.kernel);
  const wanted = onInput ? base.cols / area : base.rows;
  if (w.length !== wanted) {
    throw new ShapeError(
      `${adapterModuleId(layer)}: (IA)³: expected ${wanted} numbers for the base's ${onInput ? 'inputs' : 'outputs'}, got ${w.length}`,
    );
  }
  const delta = matrix(base.rows, base.cols);
  for (let i = 0; i < base.rows; i++) {
    for (let j = 0; j < base.cols; j++) {
      const at = i * base.cols + j;
      delta.data[at] = base.data[at]! * w[onInput ? Math.floor(j / area) : i]!;
    }
  }
  return wholeDelta(delta);
}

function difference(layer: AdapterLayer, tuned: Matrix, base: Matrix): Matrix {
  if (tuned.rows !== base.rows || tuned.cols !== base.cols) {
    throw new ShapeError(
      `${adapterModuleId(layer)}: expected the base's [${base.rows}, ${base.cols}], got [${tuned.rows}, ${tuned.cols}]; another base?`,
    );
  }
  return matrix(
    tuned.rows,
    tuned.cols,
    tuned.data.map((value, i) => value - base.data[i]!),
  );
}

/** (W₀ + ΔW) diag(s) − W₀. */
function* dora(layer: AdapterLayer, base: Matrix, factors: LowRank): Steps<LowRank> {
  const v = yield* denseSteps(factors);
  if (v.rows !== base.rows || v.cols !== base.cols) {
    throw new ShapeError(
      `${adapterModuleId(layer)}: expected the base's [${base.rows}, ${base.cols}], got [${v.rows}, ${v.cols}]`,
    );
  }
  const magnitude = layer.doraScale!;
  const norms = readFinite(magnitude);
  const perOutput = norms.length === v.rows && magnitude.shape[0] === v.rows;
  // Per input, a convolution has one number for all places of the kernel.
  const span = perOutput ? v.cols : v.cols / norms.length;
  if (!Number.isInteger(span)) {
    throw new ShapeError(
      `${magnitude.name}: expected [${v.rows}, 1] or one number per input, got [${magnitude.shape.join(', ')}]`,
    );
  }
  const group = (i: number, j: number): number => (perOutput ? i : Math.floor(j / span));
  const squares = new Float64Array(norms.length);
  for (let i = 0, at = 0; i < v.rows; i++) {
    for (let j = 0; j < v.cols; j++, at++) {
      const value = base.data[at]! + layer.scale * v.data[at]!;
      v.data[at] = value;
      squares[group(i, j)]! += value * value;
    }
  }
  yield;
  for (let i = 0, at = 0; i < v.rows; i++) {
    for (let j = 0; j < v.cols; j++, at++) {
      const g = group(i, j);
      const s = squares[g]! > 0 ? norms[g]! / Math.sqrt(squares[g]!) : 1;
      v.data[at] = v.data[at]! * s - base.data[at]!;
    }
  }
  return wholeDelta(v);
}
