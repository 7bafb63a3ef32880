/**
 * Fewer factors for a fused change, where file size or speed matters more than exactness.
 *
 * What counts is not ‖ΔW − ΔW_k‖ but what the cut does to features, ‖X (ΔW − ΔW_k)ᵀ‖² = tr((ΔW − ΔW_k) G (ΔW − ΔW_k)ᵀ).
 * With G = S Sᵀ that is ‖ΔW S − ΔW_k S‖², minimal for the truncated SVD of ΔW S. Its left singular vectors P are the
 * eigenvectors of ΔW G ΔWᵀ, and (ΔW S)_k = P_k P_kᵀ ΔW S, so that
 *
 *   ΔW_k = P_k P_kᵀ ΔW
 *
 * needs no factor of G nor its inverse, and G may be singular. From factors: up = Q T by QR, eigenvectors of the small
 * core T (down G downᵀ) Tᵀ. A little of the plain norm is mixed in, so that directions which no feature sees are
 * ordered by size and not by rounding. As P_k P_kᵀ only projects outputs, the cut never adds to what the change does
 * to any other features, preserved ones included.
 */
import { UsageError } from '../../errors.ts';
import { eighSteps } from '../../linalg/eigh.ts';
import { type GramTerm, gramTrace, multiplyByGramSteps } from '../../linalg/gram.ts';
import type { LowRank } from '../../linalg/low-rank.ts';
import { type Matrix, matrix, symmetrise } from '../../linalg/matrix.ts';
import { dot, multiplySteps, multiplyTransposedSteps } from '../../linalg/products.ts';
import { qrSteps } from '../../linalg/qr.ts';
import { inOneGo, type Steps } from '../../pace.ts';

/** `auto`: share of the feature-weighted energy ‖X ΔWᵀ‖² that is kept. The error ‖X (ΔW − ΔW_k)ᵀ‖ is then at most 10 %. */
export const DEFAULT_ENERGY_SHARE = 0.99;

/** Weight of the plain norm, relative to the mean diagonal of G. */
const PLAIN_SHARE = 1e-9;

export interface Recompression {
  /** ΔW_k; norms of matching columns of up and rows of down are equal. */
  readonly delta: LowRank;
  /** k. */
  readonly rank: number;
  /** ‖X (ΔW − ΔW_k)ᵀ‖ / ‖X ΔWᵀ‖: what the cut costs on the features; 0 if the change has no effect on them. */
  readonly featureError: number;
  /** ‖ΔW − ΔW_k‖_F / ‖ΔW‖_F; 0 for a zero change. */
  readonly plainError: number;
  /** Share of ‖X ΔWᵀ‖² by direction, in the order in which ranks take them, adding up to 1; all 0 without effect. */
  readonly energyShares: Float64Array;
}

/**
 * The best change of rank ≤ k for the given features.
 *
 * @param delta  ΔW [m, n]
 * @param grams  Gram matrices [n, n], or rows, of the features that count; their sum is G. At least one
 * @param rank   k ≥ 0; `auto`: the smallest that keeps `energyShare`. No larger than min(m, rank of the factors) in the result
 * @param energyShare  for `auto`, in (0, 1]; default 0.99
 * @throws {UsageError} if rank or share is out of range, or there are no features
 * @throws {ShapeError} if the widths differ
 * @throws {NumericalError} if factors or features are not finite
 */
export function recompress(
  delta: LowRank,
  grams: readonly GramTerm[],
  rank: number | 'auto',
  energyShare: number = DEFAULT_ENERGY_SHARE,
): Recompression {
  return inOneGo(recompressSteps(delta, grams, rank, energyShare));
}

/** `recompress` in steps, to the same bits. */
export function* recompressSteps(
  delta: LowRank,
  grams: readonly GramTerm[],
  rank: number | 'auto',
  energyShare: number = DEFAULT_ENERGY_SHARE,
): Steps<Recompression> {
  if (rank !== 'auto' && !(Number.isInteger(rank) && rank >= 0)) {
    throw new UsageError(`rank: expected auto or a whole number of 0 or more, got ${rank}`);
  }
  if (!(energyShare > 0 && energyShare <= 1)) {
    throw new UsageError(`energy share: expected a number above 0, up to 1, got ${energyShare}`);
  }
  if (grams.length === 0) throw new UsageError('recompress: expected features to weigh by, got none');
  const n = delta.down.cols;
  const { q, r } = yield* qrSteps(delta.up);
  const down = yield* multiplySteps(r, delta.down);
  const size = down.rows;
  const seen = matrix(size, size);
  for (const gram of grams) {
    const product = yield* multiplyByGramSteps(down, gram);
    addTo(seen, yield* multiplyTransposedSteps(product, down), 1);
  }
  const meanDiagonal = grams.reduce((total, gram) => total + gramTrace(gram), 0) / n;
  const core = matrix(size, size, Float64Array.from(seen.data));
  // Without features every direction is unseen: then the plain norm alone decides.
  const plain = yield* multiplyTransposedSteps(down, down);
  addTo(core, plain, meanDiagonal > 0 ? PLAIN_SHARE * meanDiagonal : 1);
  symmetrise(core);
  const directions = descending((yield* eighSteps(core)).vectors);
  const rotated = yield* multiplySteps(directions, down);

  const energies = yield* quadraticForms(directions, seen);
  const squares = rowSquares(rotated);
  const kept = Math.min(size, rank === 'auto' ? smallestRank(energies, energyShare) : rank);
  const total = energies.reduce((sum, value) => sum + value, 0);
  return {
    delta: yield* balanced(q, directions, rotated, squares, kept),
    rank: kept,
    featureError: rest(energies, kept),
    plainError: rest(squares, kept),
    energyShares: energies.map((value) => (total > 0 ? value / total : 0)),
  };
}

/**
 * Custom Diffusion's rule of compression: keep the largest singular values, s_1 … s_k, while their plain sum (not that
 * of squares) is at most `share` of the whole; the value that crosses the line goes. At share 1 all are kept.
 *
 * @param singularValues  descending, as `truncate` returns them
 * @returns k for `truncate`
 * @throws {UsageError} if share is not in (0, 1]
 * Source: `compress` in the authors' src/compress.py. Differs from it at share 1, where it drops the last value.
 */
export function rankBySpectrumShare(singularValues: Float64Array, share: number): number {
  if (!(share > 0 && share <= 1)) {
    throw new UsageError(`share of the spectrum: expected a number above 0, up to 1, got ${share}`);
  }
  if (share === 1) return singularValues.length;
  const total = singularValues.reduce((sum, value) => sum + value, 0);
  let explained = 0;
  const crossing = singularValues.findIndex((value) => {
    explained += value / total;
    return explained > share;
  });
  return crossing === -1 ? singularValues.length : crossing;
}

/** Fewest directions that hold `share` of the energy; 0 without any. */
function smallestRank(energies: Float64Array, share: number): number {
  const total = energies.reduce((sum, value) => sum + value, 0);
  let left = total;
  let rank = 0;
  // Rounding leaves a trace of energy after the last direction.
  const allowed = (1 - share) * total + energies.length * Number.EPSILON * total;
  while (rank < energies.length && left > allowed) left -= energies[rank++]!;
  return rank;
}

/** √(Σ_{j ≥ kept} values_j / Σ values_j). */
function rest(values: Float64Array, kept: number): number {
  let total = 0;
  let lost = 0;
  values.forEach((value, i) => {
    total += value;
    if (i >= kept) lost += value;
  });
  return total > 0 ? Math.sqrt(lost / total) : 0;
}

/** up = Q Vᵀ_k, down = V_k T down, with column j of up and row j of down scaled to equal norms. */
function* balanced(
  q: Matrix,
  directions: Matrix,
  rotated: Matrix,
  squares: Float64Array,
  kept: number,
): Steps<LowRank> {
  const n = rotated.cols;
  const size = directions.cols;
  const first = matrix(kept, size, directions.data.slice(0, kept * size));
  const up = yield* multiplyTransposedSteps(q, first);
  const down = matrix(kept, n, rotated.data.slice(0, kept * n));
  for (let j = 0; j < kept; j++) {
    // Columns of up have norm 1.
    const root = squares[j]! > 0 ? squares[j]! ** 0.25 : 1;
    for (let i = 0; i < up.rows; i++) up.data[i * kept + j]! *= root;
    for (let i = 0; i < n; i++) down.data[j * n + i]! /= root;
  }
  return { up, down };
}

function addTo(target: Matrix, source: Matrix, factor: number): void {
  for (let i = 0; i < target.data.length; i++) target.data[i]! += factor * source.data[i]!;
}

/** Rows in reverse order: largest eigenvalue first. */
function descending(vectors: Matrix): Matrix {
  const n = vectors.rows;
  const result = matrix(n, n);
  for (let i = 0; i < n; i++) result.data.set(vectors.data.subarray(i * n, (i + 1) * n), (n - 1 - i) * n);
  return result;
}

/** vᵀ A v for each row v, never below zero. */
function* quadraticForms(vectors: Matrix, a: Matrix): Steps<Float64Array> {
  const products = yield* multiplySteps(vectors, a);
  const n = a.cols;
  return Float64Array.from({ length: vectors.rows }, (_, i) =>
    Math.max(0, dot(products.data, i * n, vectors.data, i * n, n)),
  );
}

function rowSquares(a: Matrix): Float64Array {
  return Float64Array.from({ length: a.rows }, (_, i) => dot(a.data, i * a.cols, a.data, i * a.cols, a.cols));
}
