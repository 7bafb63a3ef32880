/**
 * Eigenvalues and eigenvectors of a symmetric matrix: Householder reduction to a tridiagonal matrix, then QL steps
 * with implicit Wilkinson shifts. Vectors are kept as rows throughout, so that every inner loop is contiguous.
 * Source: Golub & Van Loan, Matrix Computations, 4th ed., §8.3.
 */
import { NumericalError } from '../errors.ts';
import { inOneGo, type Steps } from '../pace.ts';
import { assertFinite, assertSquare, identity, type Matrix, matrix } from './matrix.ts';
import { addScaled, dot } from './products.ts';

/** A = Vᵀ diag(values) V. */
export interface SymmetricEigen {
  /** Ascending. */
  readonly values: Float64Array;
  /** V [n, n]: row k is the unit eigenvector of values[k]; its sign is free. */
  readonly vectors: Matrix;
}

interface Tridiagonal {
  readonly diagonal: Float64Array;
  /** [n]; entry i couples i and i + 1, the last is 0. */
  readonly offDiagonal: Float64Array;
  /** Qᵀ with A = Q T Qᵀ. */
  readonly basis: Matrix;
}

/**
 * Eigen-decomposition of symmetric A [n, n] (the upper triangle is trusted to mirror the lower one). A is not changed.
 *
 * @throws {ShapeError} if A is not square
 * @throws {NumericalError} if A holds NaN or infinity, or the iteration does not converge
 */
export function eigh(a: Matrix): SymmetricEigen {
  return inOneGo(eighSteps(a));
}

/** `eigh` in steps, to the same bits. */
export function* eighSteps(a: Matrix): Steps<SymmetricEigen> {
  assertSquare('eigh', a);
  assertFinite(`eigh of a matrix [${a.rows}, ${a.rows}]`, a.data);
  const t = yield* tridiagonalise(a);
  yield* diagonalise(t);
  return sorted(t);
}

/** Multiplications between two steps. */
const STEP_PRODUCTS = 1 << 20;

function* tridiagonalise(input: Matrix): Steps<Tridiagonal> {
  const n = input.rows;
  const a = Float64Array.from(input.data);
  const diagonal = new Float64Array(n);
  const offDiagonal = new Float64Array(n);
  const betas = new Float64Array(n);
  const w = new Float64Array(n);
  for (let k = 0; k < n - 1; k++) {
    yield;
    // Row k right of the diagonal is replaced by the reflection's vector v, with v[0] = 1.
    const start = k * n + k + 1;
    const length = n - k - 1;
    let largest = 0;
    for (let i = 0; i < length; i++) largest = Math.max(largest, Math.abs(a[start + i]!));
    let norm = 0;
    for (let i = 0; i < length && largest > 0; i++) norm += (a[start + i]! / largest) ** 2;
    norm = largest * Math.sqrt(norm);
    const head = a[start]!;
    const corner = head > 0 ? -norm : norm;
    offDiagonal[k] = corner;
    if (norm === 0 || length === 1) {
      offDiagonal[k] = head;
      continue;
    }
    const beta = (corner - head) / corner;
    betas[k] = beta;
    const first = head - corner;
    for (let i = 1; i < length; i++) a[start + i]! /= first;
    a[start] = 1;
    for (let i = 0; i < length; i++) w[i] = beta * dot(a, (k + 1 + i) * n + k + 1, a, start, length);
    addScaled(-(beta / 2) * dot(w, 0, a, start, length), a, start, w, 0, length);
    for (let i = 0; i < length; i++) {
      const row = (k + 1 + i) * n + k + 1;
      addScaled(-a[start + i]!, w, 0, a, row, length);
      addScaled(-w[i]!, a, start, a, row, length);
    }
  }
  for (let i = 0; i < n; i++) diagonal[i] = a[i * n + i]!;
  const basis = identity(n);
  for (let k = n - 2; k >= 0; k--) {
    if (betas[k] === 0) continue;
    yield;
    const start = k * n + k + 1;
    const length = n - k - 1;
    for (let i = k + 1; i < n; i++) {
      const row = i * n + k + 1;
      addScaled(-betas[k]! * dot(basis.data, row, a, start, length), a, start, basis.data, row, length);
    }
  }
  return { diagonal, offDiagonal, basis };
}

/** Makes `diagonal` the eigenvalues and `basis` the eigenvectors, in place. */
function* diagonalise({ diagonal: d, offDiagonal: e, basis }: Tridiagonal): Steps<void> {
  const n = d.length;
  const z = basis.data;
  const maxSteps = 60 * n;
  let steps = 0;
  let products = 0;
  for (let low = 0; low < n; low++) {
    for (;;) {
      let high = low;
      while (
        high < n - 1 &&
        Math.abs(e[high]!) > Number.EPSILON * (Math.abs(d[high]!) + Math.abs(d[high + 1]!))
      ) {
        high++;
      }
      products += (high - low) * n;
      if (products > STEP_PRODUCTS) {
        products = 0;
        yield;
      }
      if (high === low) break;
      if (++steps > maxSteps) {
        throw new NumericalError(`eigh of a matrix [${n}, ${n}]: not converged after ${maxSteps} QL steps`);
      }
      // Wilkinson's shift from the leading 2 × 2 block.
      const half = (d[low + 1]! - d[low]!) / (2 * e[low]!);
      let g = d[high]! - d[low]! + e[low]! / (half + Math.sign(half || 1) * Math.hypot(half, 1));
      let sine = 1;
      let cosine = 1;
      let shift = 0;
      let split = false;
      for (let i = high - 1; i >= low; i--) {
        const f = sine * e[i]!;
        const b = cosine * e[i]!;
        const r = Math.hypot(f, g);
        e[i + 1] = r;
        if (r === 0) {
          // The block fell apart in the middle: look for it again.
          d[i + 1]! -= shift;
          e[high] = 0;
          split = true;
          break;
        }
        sine = f / r;
        cosine = g / r;
        g = d[i + 1]! - shift;
        const t = (d[i]! - g) * sine + 2 * cosine * b;
        shift = sine * t;
        d[i + 1] = g + shift;
        g = cosine * t - b;
        rotateRows(z, i * n, (i + 1) * n, n, cosine, sine);
      }
      if (split) continue;
      d[low]! -= shift;
      e[low] = g;
      e[high] = 0;
    }
  }
}

/** (x, y) ← (c·x − s·y, s·x + c·y). */
function rotateRows(z: Float64Array, x: number, y: number, length: number, c: number, s: number): void {
  for (let k = 0; k < length; k++) {
    const a = z[x + k]!;
    const b = z[y + k]!;
    z[x + k] = c * a - s * b;
    z[y + k] = s * a + c * b;
  }
}

function sorted({ diagonal, basis }: Tridiagonal): SymmetricEigen {
  const n = diagonal.length;
  const order = Array.from({ length: n }, (_, i) => i).sort((i, j) => diagonal[i]! - diagonal[j]!);
  const vectors = matrix(n, n);
  order.forEach((from, to) => {
    vectors.data.set(basis.data.subarray(from * n, (from + 1) * n), to * n);
  });
  return { values: Float64Array.from(order, (i) => diagonal[i]!), vectors };
}
