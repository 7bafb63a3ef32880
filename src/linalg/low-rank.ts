/**
 * Deltas of linear layers as factors, ΔW = up · down, never expanded needlessly.
 * Every scale (strength, loraAlpha / rank) is already inside the factors.
 */
import { ShapeError, UsageError } from '../errors.ts';
import { inOneGo, type Steps } from '../pace.ts';
import { type GramTerm, quadraticTrace } from './gram.ts';
import { type Matrix, matrix, transpose } from './matrix.ts';
import { dot, multiply, multiplySteps, multiplyTransposed, multiplyTransposedSteps } from './products.ts';
import { qrSteps } from './qr.ts';
import { svdSteps } from './svd.ts';

/** ΔW [m, n] = up [m, r] · down [r, n]. */
export interface LowRank {
  readonly up: Matrix;
  readonly down: Matrix;
}

/** A delta from its factors (not copied). @throws {ShapeError} if up's columns are not down's rows. */
export function lowRank(up: Matrix, down: Matrix): LowRank {
  if (up.cols !== down.rows) {
    throw new ShapeError(
      `low-rank delta: expected up [m, r] and down [r, n], got [${up.rows}, ${up.cols}] and [${down.rows}, ${down.cols}]`,
    );
  }
  return { up, down };
}

/** The zero delta [m, n], of rank 0. */
export function zeroDelta(m: number, n: number): LowRank {
  return { up: matrix(m, 0), down: matrix(0, n) };
}

/** r: the number of columns of up, an upper bound of the rank of ΔW. */
export function rankOf(delta: LowRank): number {
  return delta.up.cols;
}

/** factor · ΔW. The factor goes into `up`; `down` is shared, not copied. */
export function scale(delta: LowRank, factor: number): LowRank {
  const { rows, cols, data } = delta.up;
  const up = matrix(rows, cols);
  for (let i = 0; i < data.length; i++) up.data[i] = factor * data[i]!;
  return { up, down: delta.down };
}

/**
 * Σ factorᵢ · ΔWᵢ exactly, by laying factors side by side; the rank is the sum of the ranks.
 * @param factors go into `up`; default 1 each
 * @throws {ShapeError} if shapes differ or there is no delta
 */
export function sum(deltas: readonly LowRank[], factors: readonly number[] = []): LowRank {
  const first = deltas[0];
  if (first === undefined) throw new ShapeError('sum of deltas: expected at least one, got none');
  const m = first.up.rows;
  const n = first.down.cols;
  const rank = deltas.reduce((total, delta) => total + rankOf(delta), 0);
  const up = matrix(m, rank);
  const down = matrix(rank, n);
  let at = 0;
  for (const [index, delta] of deltas.entries()) {
    assertSameShape('sum of deltas', first, delta);
    copyScaledColumns(delta.up, factors[index] ?? 1, up, at);
    down.data.set(delta.down.data, at * n);
    at += rankOf(delta);
  }
  return { up, down };
}

/** Columns [at, at + a.cols) of `target` become factor · A. */
function copyScaledColumns(a: Matrix, factor: number, target: Matrix, at: number): void {
  const { cols, data } = a;
  const { cols: stride, data: out } = target;
  for (let i = 0, from = 0; i < a.rows; i++) {
    const to = i * stride + at;
    for (let j = 0; j < cols; j++, from++) out[to + j] = factor * data[from]!;
  }
}

/** ΔWₐ − ΔW_b, exactly. @throws {ShapeError} if shapes differ. */
export function subtract(a: LowRank, b: LowRank): LowRank {
  return sum([a, scale(b, -1)]);
}

/** ΔW x [m] for x [n]. @throws {ShapeError} if x has another length. */
export function applyToVector(delta: LowRank, x: Float64Array): Float64Array {
  return applyToRows(delta, matrix(1, x.length, x)).data;
}

/** X ΔWᵀ [N, m] for feature rows X [N, n]. @throws {ShapeError} if the widths differ. */
export function applyToRows(delta: LowRank, x: Matrix): Matrix {
  return multiplyTransposed(multiplyTransposed(x, delta.down), delta.up);
}

/** ⟨ΔWₐ, ΔW_b⟩ = tr(ΔWₐᵀ ΔW_b), from factors. @throws {ShapeError} if shapes differ. */
export function innerProduct(a: LowRank, b: LowRank): number {
  return inOneGo(innerProductSteps(a, b));
}

/** `innerProduct` in steps, to the same bits. */
export function* innerProductSteps(a: LowRank, b: LowRank): Steps<number> {
  assertSameShape('inner product of deltas', a, b);
  const ups = yield* multiplyTransposedSteps(transpose(a.up), transpose(b.up));
  const downs = yield* multiplyTransposedSteps(a.down, b.down);
  return dot(ups.data, 0, downs.data, 0, ups.data.length);
}

/**
 * E [k, n] with EᵀE = ΔWᵀΔW, k = min(m, r). By QR of `up`, so that factors which nearly cancel (as in a difference)
 * do so before anything is squared.
 */
function* compressRows(delta: LowRank): Steps<Matrix> {
  const { r } = yield* qrSteps(delta.up);
  return yield* multiplySteps(r, delta.down);
}

/** ‖ΔW‖_F, from factors. */
export function frobeniusNorm(delta: LowRank): number {
  return inOneGo(frobeniusNormSteps(delta));
}

/** `frobeniusNorm` in steps, to the same bits. */
export function* frobeniusNormSteps(delta: LowRank): Steps<number> {
  const { data } = yield* compressRows(delta);
  return Math.sqrt(dot(data, 0, data, 0, data.length));
}

/**
 * ‖X ΔWᵀ‖²_F = tr(ΔW G ΔWᵀ): what the delta does to the features whose Gram matrix is G = XᵀX [n, n].
 *
 * @throws {ShapeError} if the widths differ
 */
export function featureNormSquared(delta: LowRank, gram: GramTerm): number {
  return inOneGo(featureNormSquaredSteps(delta, gram));
}

/** `featureNormSquared` in steps, to the same bits. */
export function* featureNormSquaredSteps(delta: LowRank, gram: GramTerm): Steps<number> {
  return quadraticTrace(yield* compressRows(delta), gram);
}

/** A delta cut to fewer factors, and what the cut cost. */
export interface Truncation {
  /** √s is divided evenly between up and down. */
  readonly delta: LowRank;
  /** All singular values of the given delta that factors can hold, descending. */
  readonly singularValues: Float64Array;
  /** ‖left out‖_F / ‖ΔW‖_F; 0 for a zero delta. */
  readonly relativeError: number;
}

/**
 * The best approximation of ΔW of rank ≤ `rank` in the Frobenius norm, by QR of both factors and the SVD of the small core.
 *
 * @param rank  ≥ 0; when no smaller than the delta's own, the result is exact up to rounding and no longer than min(m, n)
 * @throws {UsageError} if `rank` is not a natural number
 * @throws {NumericalError} if the factors hold NaN or infinity
 */
export function truncate(delta: LowRank, rank: number): Truncation {
  return inOneGo(truncateSteps(delta, rank));
}

/** `truncate` in steps, to the same bits. */
export function* truncateSteps(delta: LowRank, rank: number): Steps<Truncation> {
  return yield* (yield* decomposeSteps(delta)).truncate(rank);
}

/** The singular values of a delta, and the cuts that they allow: choose a rank by them, then cut. */
export interface Decomposition {
  /** All that factors can hold, descending. */
  readonly singularValues: Float64Array;
  /** As `truncateSteps`. @throws {UsageError} if `rank` is not a natural number */
  truncate(rank: number): Steps<Truncation>;
}

/** @throws {UsageError} if `rank` is not a natural number */
export function checkRank(rank: number): void {
  if (!Number.isInteger(rank) || rank < 0) {
    throw new UsageError(`truncate: expected a rank of 0 or more, got ${rank}`);
  }
}

/** What of `singularValues` is lost beyond the first `kept`: ‖left out‖_F / ‖ΔW‖_F. */
export function lostShare(singularValues: Float64Array, kept: number): number {
  let total = 0;
  let lost = 0;
  singularValues.forEach((s, i) => {
    total += s * s;
    if (i >= kept) lost += s * s;
  });
  return total > 0 ? Math.sqrt(lost / total) : 0;
}

/**
 * QR of both factors and the SVD of the small core.
 * @throws {NumericalError} if the factors hold NaN or infinity
 */
export function* decomposeSteps(delta: LowRank): Steps<Decomposition> {
  const left = yield* qrSteps(delta.up);
  const right = yield* qrSteps(transpose(delta.down));
  const core = yield* multiplyTransposedSteps(left.r, right.r);
  const { u, singularValues, v } = yield* svdSteps(core);
  const roots = singularValues.map(Math.sqrt);
  return {
    singularValues,
    *truncate(rank) {
      checkRank(rank);
      const kept = Math.min(rank, singularValues.length);
      return {
        delta: {
          up: yield* multiplySteps(left.q, firstColumns(u, kept, roots)),
          down: transpose(yield* multiplySteps(right.q, firstColumns(v, kept, roots))),
        },
        singularValues,
        relativeError: lostShare(singularValues, kept),
      };
    },
  };
}

/** The first `count` columns, column j times factors[j]. */
function firstColumns(a: Matrix, count: number, factors: Float64Array): Matrix {
  const result = matrix(a.rows, count);
  for (let i = 0; i < a.rows; i++) {
    for (let j = 0; j < count; j++) result.data[i * count + j] = a.data[i * a.cols + j]! * factors[j]!;
  }
  return result;
}

/** ΔW [m, n] written out: for merging into a weight, and for small layers. */
export function toDense(delta: LowRank): Matrix {
  return multiply(delta.up, delta.down);
}

function assertSameShape(where: string, a: LowRank, b: LowRank): void {
  if (a.up.rows !== b.up.rows || a.down.cols !== b.down.cols) {
    throw new ShapeError(
      `${where}: expected [${a.up.rows}, ${a.down.cols}], got [${b.up.rows}, ${b.down.cols}]`,
    );
  }
}
