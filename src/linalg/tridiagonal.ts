/**
 * Householder reduction of a symmetric matrix to a tridiagonal one, for work that needs few of its eigenvectors. Of the
 * lower triangle only, two rows at a time; the update that one reflection leaves is made while the next is multiplied, so
 * that each number is read once a column. `linalg/eigh.ts` has the plain loops that judge this.
 * Source: Golub & Van Loan, Matrix Computations, 4th ed., §8.3; the fused pass is that of LAPACK's DLATRD with one column.
 */
import type { Steps } from '../pace.ts';
import type { Matrix } from './matrix.ts';

/** A = Q T Qᵀ, Q = H₀ H₁ …, Hₖ = I − βₖ vₖ vₖᵀ. */
export interface Reduction {
  /** Of T, [n]. */
  readonly diagonal: Float64Array;
  /** [n]; entry i couples i and i + 1, the last is 0. */
  readonly offDiagonal: Float64Array;
  /** [n, n]: row k holds vₖ, zero up to and including entry k. */
  readonly reflections: Float64Array;
  /** [n] */
  readonly betas: Float64Array;
}

/** Columns reduced between two steps. */
const STEP_COLUMNS = 16;

/** @param input A [n, n], symmetric; its lower triangle is read */
export function* tridiagonaliseSteps(input: Matrix): Steps<Reduction> {
  const n = input.rows;
  const a = Float64Array.from(input.data);
  const diagonal = new Float64Array(n);
  const offDiagonal = new Float64Array(n);
  const betas = new Float64Array(n);
  const reflections = new Float64Array(n * n);
  // What the last reflection still has to take away: v wᵀ + w vᵀ.
  let v: Float64Array = new Float64Array(n);
  const w = new Float64Array(n);
  const y = new Float64Array(n);
  for (let k = 0; k < n; k++) {
    if (k % STEP_COLUMNS === 0) yield;
    diagonal[k] = a[k * n + k]! - 2 * v[k]! * w[k]!;
    if (k === n - 1) break;
    const x = reflections.subarray(k * n, (k + 1) * n);
    for (let i = k + 1; i < n; i++) x[i] = a[i * n + k]! - v[i]! * w[k]! - w[i]! * v[k]!;
    const { beta, corner } = reflectionOf(x, k + 1);
    offDiagonal[k] = corner;
    betas[k] = beta;
    updateAndMultiply(a, n, k + 1, v, w, x, y);
    let overlap = 0;
    for (let i = k + 1; i < n; i++) overlap += y[i]! * x[i]!;
    const along = (beta * beta * overlap) / 2;
    for (let i = k + 1; i < n; i++) w[i] = beta * y[i]! - along * x[i]!;
    v = x;
  }
  return { diagonal, offDiagonal, reflections, betas };
}

/** x from `start` on becomes v with v[start] = 1, so that (I − β v vᵀ) x is `corner` there and 0 below. */
function reflectionOf(x: Float64Array, start: number): { readonly beta: number; readonly corner: number } {
  let largest = 0;
  for (let i = start; i < x.length; i++) largest = Math.max(largest, Math.abs(x[i]!));
  let tail = 0;
  for (let i = start + 1; i < x.length && largest > 0; i++) tail += (x[i]! / largest) ** 2;
  const head = x[start]!;
  x[start] = 1;
  if (tail === 0) return { beta: 0, corner: head };
  const norm = largest * Math.sqrt((head / largest) ** 2 + tail);
  const corner = head > 0 ? -norm : norm;
  const first = head - corner;
  for (let i = start + 1; i < x.length; i++) x[i]! /= first;
  return { beta: (corner - head) / corner, corner };
}

/** A −= v wᵀ + w vᵀ in the lower triangle from row and column `start` on, and y = A x of the result. */
function updateAndMultiply(
  a: Float64Array,
  n: number,
  start: number,
  v: Float64Array,
  w: Float64Array,
  x: Float64Array,
  y: Float64Array,
): void {
  y.fill(0, start);
  let i = start;
  for (; i + 1 < n; i += 2) {
    const row = i * n;
    const next = row + n;
    const [v0, w0, x0] = [v[i]!, w[i]!, x[i]!];
    const [v1, w1, x1] = [v[i + 1]!, w[i + 1]!, x[i + 1]!];
    let y0 = 0;
    let y1 = 0;
    for (let j = start; j < i; j++) {
      const vj = v[j]!;
      const wj = w[j]!;
      const xj = x[j]!;
      const e0 = a[row + j]! - v0 * wj - w0 * vj;
      const e1 = a[next + j]! - v1 * wj - w1 * vj;
      a[row + j] = e0;
      a[next + j] = e1;
      y0 += e0 * xj;
      y1 += e1 * xj;
      y[j]! += e0 * x0 + e1 * x1;
    }
    const top = a[row + i]! - 2 * v0 * w0;
    const side = a[next + i]! - v1 * w0 - w1 * v0;
    const low = a[next + i + 1]! - 2 * v1 * w1;
    a[row + i] = top;
    a[next + i] = side;
    a[next + i + 1] = low;
    y[i]! += y0 + top * x0 + side * x1;
    y[i + 1]! += y1 + side * x0 + low * x1;
  }
  if (i < n) {
    const row = i * n;
    let sum = 0;
    for (let j = start; j < i; j++) {
      const e = a[row + j]! - v[i]! * w[j]! - w[i]! * v[j]!;
      a[row + j] = e;
      sum += e * x[j]!;
      y[j]! += e * x[i]!;
    }
    a[row + i]! -= 2 * v[i]! * w[i]!;
    y[i]! += sum + a[row + i]! * x[i]!;
  }
}

/** Each row z of [count, n] becomes Q z: an eigenvector of T becomes one of A. */
export function* reflectBackSteps(
  { reflections, betas }: Reduction,
  rows: Float64Array,
  count: number,
): Steps<void> {
  const n = betas.length;
  for (let k = n - 2; k >= 0; k--) {
    if (k % STEP_COLUMNS === 0) yield;
    if (betas[k] === 0) continue;
    const v = reflections.subarray(k * n, (k + 1) * n);
    let r = 0;
    for (; r + 3 < count; r += 4) reflectFour(rows, r * n, v, k + 1, betas[k]!);
    for (; r < count; r++) reflectOne(rows, r * n, v, k + 1, betas[k]!);
  }
}

function reflectFour(rows: Float64Array, at: number, v: Float64Array, start: number, beta: number): void {
  const n = v.length;
  const [a, b, c, d] = [at, at + n, at + 2 * n, at + 3 * n];
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (let i = start; i < n; i++) {
    const value = v[i]!;
    s0 += rows[a + i]! * value;
    s1 += rows[b + i]! * value;
    s2 += rows[c + i]! * value;
    s3 += rows[d + i]! * value;
  }
  s0 *= beta;
  s1 *= beta;
  s2 *= beta;
  s3 *= beta;
  for (let i = start; i < n; i++) {
    const value = v[i]!;
    rows[a + i]! -= s0 * value;
    rows[b + i]! -= s1 * value;
    rows[c + i]! -= s2 * value;
    rows[d + i]! -= s3 * value;
  }
}

function reflectOne(rows: Float64Array, at: number, v: Float64Array, start: number, beta: number): void {
  let sum = 0;
  for (let i = start; i < v.length; i++) sum += rows[at + i]! * v[i]!;
  for (let i = start; i < v.length; i++) rows[at + i]! -= beta * sum * v[i]!;
}
