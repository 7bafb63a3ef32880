/** Thin QR by Householder reflections, on columns laid out contiguously. */
import { inOneGo, type Steps } from '../pace.ts';
import { type Matrix, matrix, transpose } from './matrix.ts';
import { addScaled, dot } from './products.ts';

/** A [m, n] = Q R with Q [m, k], R [k, n], k = min(m, n); QᵀQ = I, R upper triangular. Signs of R's rows are free. */
export interface QrFactors {
  readonly q: Matrix;
  readonly r: Matrix;
}

/** Thin QR of A [m, n], also when A is wide or rank-deficient. A is not changed. */
export function qr(a: Matrix): QrFactors {
  return inOneGo(qrSteps(a));
}

/** `qr` in steps, to the same bits. */
export function* qrSteps(a: Matrix): Steps<QrFactors> {
  const m = a.rows;
  const n = a.cols;
  const k = Math.min(m, n);
  // Row j holds column j of A; its first entries become R, the rest the reflection's vector.
  const columns = transpose(a).data;
  const betas = new Float64Array(k);
  const r = matrix(k, n);
  for (let j = 0; j < k; j++) {
    const start = j * m + j;
    const length = m - j;
    const norm = scaledNorm(columns, start, length);
    let corner = 0;
    if (norm > 0) {
      const head = columns[start]!;
      corner = head > 0 ? -norm : norm;
      // v = x − corner·e₁, divided by its first entry (which cannot cancel).
      const first = head - corner;
      betas[j] = (corner - head) / corner;
      for (let i = 1; i < length; i++) columns[start + i]! /= first;
    }
    columns[start] = 1;
    for (let other = j + 1; other < n; other++) {
      reflect(columns, start, length, betas[j]!, columns, other * m + j);
    }
    r.data[j * n + j] = corner;
    yield;
  }
  for (let j = 0; j < n; j++) {
    for (let i = 0; i < Math.min(j, k); i++) r.data[i * n + j] = columns[j * m + i]!;
  }
  const qColumns = matrix(k, m);
  for (let j = k - 1; j >= 0; j--) {
    qColumns.data[j * m + j] = 1;
    for (let column = j; column < k; column++) {
      reflect(columns, j * m + j, m - j, betas[j]!, qColumns.data, column * m + j);
    }
    yield;
  }
  return { q: transpose(qColumns), r };
}

/** y ← (I − β v vᵀ) y. */
function reflect(
  v: Float64Array,
  vStart: number,
  length: number,
  beta: number,
  y: Float64Array,
  yStart: number,
): void {
  if (beta !== 0) addScaled(-beta * dot(v, vStart, y, yStart, length), v, vStart, y, yStart, length);
}

/** Euclidean norm without overflow or underflow of the squares. */
function scaledNorm(data: Float64Array, start: number, length: number): number {
  let largest = 0;
  for (let i = 0; i < length; i++) largest = Math.max(largest, Math.abs(data[start + i]!));
  if (largest === 0 || !Number.isFinite(largest)) return largest;
  let sum = 0;
  for (let i = 0; i < length; i++) sum += (data[start + i]! / largest) ** 2;
  return largest * Math.sqrt(sum);
}
