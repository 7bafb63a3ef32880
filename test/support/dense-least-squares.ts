/**
 * The fusion problem solved slowly and plainly, from raw feature rows and dense weights: the judge of the factored
 * solver. Normal equations by Gaussian elimination with partial pivoting; or, without any regularisation, least
 * squares on the stacked rows.
 */
import { type Matrix, matrix, transpose } from '../../src/linalg/matrix.ts';
import { qr } from '../../src/linalg/qr.ts';
import { naiveProduct } from './matrices.ts';

export interface DenseConcept {
  /** X_i [N_i, n]. */
  readonly features: Matrix;
  /** W_i [m, n]. */
  readonly weight: Matrix;
}

/** A⁻¹ B by Gaussian elimination with partial pivoting. */
export function gaussianSolve(a: Matrix, b: Matrix): Matrix {
  const n = a.rows;
  const left = Float64Array.from(a.data);
  const x = Float64Array.from(b.data);
  const k = b.cols;
  for (let column = 0; column < n; column++) {
    let best = column;
    for (let i = column + 1; i < n; i++) {
      if (Math.abs(left[i * n + column]!) > Math.abs(left[best * n + column]!)) best = i;
    }
    swapRows(left, n, column, best);
    swapRows(x, k, column, best);
    for (let i = column + 1; i < n; i++) {
      const factor = left[i * n + column]! / left[column * n + column]!;
      for (let j = column; j < n; j++) left[i * n + j]! -= factor * left[column * n + j]!;
      for (let j = 0; j < k; j++) x[i * k + j]! -= factor * x[column * k + j]!;
    }
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let j = 0; j < k; j++) {
      let value = x[i * k + j]!;
      for (let l = i + 1; l < n; l++) value -= left[i * n + l]! * x[l * k + j]!;
      x[i * k + j] = value / left[i * n + i]!;
    }
  }
  return matrix(n, k, x);
}

function swapRows(data: Float64Array, width: number, i: number, j: number): void {
  const row = data.slice(i * width, (i + 1) * width);
  data.copyWithin(i * width, j * width, (j + 1) * width);
  data.set(row, j * width);
}

/**
 * argmin_W Σ ‖X_i Wᵀ − X_i W_iᵀ‖² + beta ‖X_reg (W − W₀)ᵀ‖² + lambda ‖W − W₀‖², by
 * W (Σ G_i + beta G_reg + lambda I) = Σ W_i G_i + beta W₀ G_reg + lambda W₀. Returns W [m, n].
 */
export function denseFusion(
  base: Matrix,
  concepts: readonly DenseConcept[],
  lambda: number,
  preserve: { readonly features: Matrix; readonly beta: number } | null,
): Matrix {
  const n = base.cols;
  const normal = matrix(n, n);
  const right = matrix(n, base.rows);
  const add = (target: Matrix, source: Matrix, factor: number) => {
    source.data.forEach((value, i) => {
      target.data[i]! += factor * value;
    });
  };
  for (const { features, weight } of concepts) {
    const gram = naiveProduct(transpose(features), features);
    add(normal, gram, 1);
    add(right, naiveProduct(gram, transpose(weight)), 1);
  }
  if (preserve !== null) {
    const gram = naiveProduct(transpose(preserve.features), preserve.features);
    add(normal, gram, preserve.beta);
    add(right, naiveProduct(gram, transpose(base)), preserve.beta);
  }
  for (let i = 0; i < n; i++) normal.data[i * n + i]! += lambda;
  add(right, transpose(base), lambda);
  return transpose(gaussianSolve(normal, right));
}

/** argmin_W Σ ‖X_i Wᵀ − X_i W_iᵀ‖² by QR of the stacked rows, which must have full column rank. Returns W [m, n]. */
export function leastSquaresOnRows(concepts: readonly DenseConcept[]): Matrix {
  const features = stack(concepts.map((concept) => concept.features));
  const targets = stack(concepts.map(({ features: x, weight }) => naiveProduct(x, transpose(weight))));
  const { q, r } = qr(features);
  return transpose(gaussianSolve(r, naiveProduct(transpose(q), targets)));
}

function stack(parts: readonly Matrix[]): Matrix {
  const cols = parts[0]!.cols;
  return matrix(
    parts.reduce((total, part) => total + part.rows, 0),
    cols,
    Float64Array.from(parts.flatMap((part) => Array.from(part.data))),
  );
}
