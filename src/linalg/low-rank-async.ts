/**
 * Cutting deltas with their large products computed elsewhere, for layers of thousands of rows. Gram matrices in place of
 * QR: with down · downᵀ = L Lᵀ, the eigenvectors V of Lᵀ (upᵀ up) L are the right singular vectors of ΔW seen from the
 * orthonormal rows L⁻¹ down, and
 *
 *   ΔW_k = ΔW Q Qᵀ with Qᵀ = V_kᵀ L⁻¹ down:  up' = up L V_k S^-½,  down' = S^½ V_kᵀ L⁻¹ down
 *
 * Squared numbers lose half the digits, so everything near that limit goes the plain way (linalg/low-rank.ts), which
 * also judges this one.
 */

import { NumericalError } from '../errors.ts';
import { Pace, type Steps } from '../pace.ts';
import { choleskySteps } from './cholesky.ts';
import { leadingEigenSteps } from './leading-eigen.ts';
import { checkRank, decomposeSteps, type LowRank, lostShare, type Truncation } from './low-rank.ts';
import { type MatmulEngine, timesTransposed, transposedTimes } from './matmul-engine.ts';
import { type Matrix, symmetrise } from './matrix.ts';
import { addScaled } from './products.ts';

/** A decomposition whose cuts are computed elsewhere too. */
export interface AsyncDecomposition {
  /** All that factors can hold, descending; below 1e-7 of the largest they are rounding. */
  readonly singularValues: Float64Array;
  /** As `truncate` of linalg/low-rank.ts. */
  truncate(rank: number): Promise<Truncation>;
}

/** Below this many multiplications the plain way is quicker than loading products. */
const SMALL = 1 << 21;
/** Least share of a row of `down` that the rows before it do not hold, squared. */
const LEAST_PIVOT = 1e-6;
/** Least singular value that is kept, as a share of the largest. */
const LEAST_VALUE = 1e-6;

/**
 * As `decomposeSteps`.
 * @param pace between the products
 * @throws {NumericalError} if the factors hold NaN or infinity
 */
export async function decomposeWith(
  delta: LowRank,
  engine: MatmulEngine,
  pace: Pace = new Pace(),
): Promise<AsyncDecomposition> {
  const { up, down } = delta;
  const plain = async (): Promise<AsyncDecomposition> => {
    const { singularValues, truncate } = await pace.run(decomposeSteps(delta));
    return { singularValues, truncate: (rank) => pace.run(truncate(rank)) };
  };
  const r = up.cols;
  if (r > Math.min(up.rows, down.cols) || r * r * (up.rows + down.cols) < SMALL) return plain();
  const downGram = await timesTransposed(engine, down, down);
  const lower = await pace.run(lowerFactor(downGram));
  if (lower === null) return plain();
  const upGram = await transposedTimes(engine, up, up);
  const seen = symmetrise(await transposedTimes(engine, lower, await engine(upGram, lower)));
  const { values, vectors } = await pace.run(leadingEigenSteps(seen));
  const singularValues = values.map((value) => Math.sqrt(Math.max(0, value)));
  return {
    singularValues,
    truncate: async (rank) => {
      checkRank(rank);
      const kept = Math.min(rank, r);
      if (kept > 0 && !(singularValues[kept - 1]! > LEAST_VALUE * singularValues[0]!)) {
        return (await plain()).truncate(rank);
      }
      const rows = await pace.run(vectors(kept));
      const roots = singularValues.map(Math.sqrt);
      const left = await timesTransposed(engine, lower, rows);
      for (let i = 0; i < r; i++) {
        for (let k = 0; k < kept; k++) left.data[i * kept + k]! /= roots[k]!;
      }
      await pace.run(solveTransposed(lower, rows));
      for (let k = 0; k < kept; k++) {
        for (let i = 0; i < r; i++) rows.data[k * r + i]! *= roots[k]!;
      }
      return {
        delta: { up: await engine(up, left), down: await engine(rows, down) },
        singularValues,
        relativeError: lostShare(singularValues, kept),
      };
    },
  };
}

/** As `truncate`, with the products of `engine`. */
export async function truncateWith(
  delta: LowRank,
  rank: number,
  engine: MatmulEngine,
  pace: Pace = new Pace(),
): Promise<Truncation> {
  checkRank(rank);
  return (await decomposeWith(delta, engine, pace)).truncate(rank);
}

/** L with zeros above its diagonal; `null` where rows depend on each other nearly or wholly. The matrix is spoilt. */
function* lowerFactor(gram: Matrix): Steps<Matrix | null> {
  const n = gram.rows;
  const diagonal = Float64Array.from({ length: n }, (_, i) => gram.data[i * n + i]!);
  try {
    yield* choleskySteps(gram);
  } catch (error) {
    if (error instanceof NumericalError) return null;
    throw error;
  }
  for (let i = 0; i < n; i++) {
    if (!(gram.data[i * n + i]! ** 2 > LEAST_PIVOT * diagonal[i]!)) return null;
    gram.data.fill(0, i * n + i + 1, (i + 1) * n);
  }
  return gram;
}

/** Each row x of `rows` becomes the solution y of y L = x, that is Lᵀ yᵀ = xᵀ; four rows at a time, which share reading L. */
function* solveTransposed(lower: Matrix, rows: Matrix): Steps<void> {
  const n = lower.rows;
  let k = 0;
  for (; k + 3 < rows.rows; k += 4) {
    solveFour(lower, rows.data, k * n);
    yield;
  }
  for (; k < rows.rows; k++) {
    for (let i = n - 1; i >= 0; i--) {
      const value = rows.data[k * n + i]! / lower.data[i * n + i]!;
      rows.data[k * n + i] = value;
      addScaled(-value, lower.data, i * n, rows.data, k * n, i);
    }
    yield;
  }
}

function solveFour({ rows: n, data: l }: Matrix, x: Float64Array, at: number): void {
  const [a, b, c, d] = [at, at + n, at + 2 * n, at + 3 * n];
  for (let i = n - 1; i >= 0; i--) {
    const row = i * n;
    const pivot = l[row + i]!;
    const va = x[a + i]! / pivot;
    const vb = x[b + i]! / pivot;
    const vc = x[c + i]! / pivot;
    const vd = x[d + i]! / pivot;
    x[a + i] = va;
    x[b + i] = vb;
    x[c + i] = vc;
    x[d + i] = vd;
    for (let j = 0; j < i; j++) {
      const factor = l[row + j]!;
      x[a + j]! -= va * factor;
      x[b + j]! -= vb * factor;
      x[c + j]! -= vc * factor;
      x[d + j]! -= vd * factor;
    }
  }
}
