/**
 * Float64 matrix products for factors and Gram matrices: all inner loops run along rows, in blocks that stay in
 * cache. Large products of activations belong to the graph runtime, not here.
 */
import { ShapeError } from '../errors.ts';
import type { Steps } from '../pace.ts';
import { type Matrix, matrix } from './matrix.ts';

/** Rows of the right operand kept in cache together. */
const BLOCK = 32;
/** Multiplications in one step of a product: a few milliseconds. */
const STEP_PRODUCTS = 1 << 22;
/** Edge of the diagonal blocks of a symmetric update. */
const DIAGONAL_BLOCK = 64;

/** Σ a[aStart + i] · b[bStart + i] over `length` numbers. */
export function dot(
  a: Float64Array,
  aStart: number,
  b: Float64Array,
  bStart: number,
  length: number,
): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let i = 0;
  for (; i + 3 < length; i += 4) {
    s0 += a[aStart + i]! * b[bStart + i]!;
    s1 += a[aStart + i + 1]! * b[bStart + i + 1]!;
    s2 += a[aStart + i + 2]! * b[bStart + i + 2]!;
    s3 += a[aStart + i + 3]! * b[bStart + i + 3]!;
  }
  for (; i < length; i++) s0 += a[aStart + i]! * b[bStart + i]!;
  return s0 + s1 + (s2 + s3);
}

/** b[bStart + i] += factor · a[aStart + i] over `length` numbers. */
export function addScaled(
  factor: number,
  a: Float64Array,
  aStart: number,
  b: Float64Array,
  bStart: number,
  length: number,
): void {
  for (let i = 0; i < length; i++) b[bStart + i]! += factor * a[aStart + i]!;
}

/** Numbers up to which a loop copies quicker than a view of them is made. */
const SHORT_RUN = 128;

/** b[bStart + i] = a[aStart + i] over `length` numbers of two arrays. */
export function copyRun(
  a: Float32Array | Float64Array,
  aStart: number,
  b: Float64Array,
  bStart: number,
  length: number,
): void {
  if (a instanceof Float64Array && length <= SHORT_RUN) {
    for (let i = 0; i < length; i++) b[bStart + i] = a[aStart + i]!;
  } else {
    b.set(a.subarray(aStart, aStart + length), bStart);
  }
}

/** C [rows, cols] inside a larger row-major array: element (i, j) at `start + i * stride + j`. */
interface Target {
  readonly data: Float64Array;
  readonly start: number;
  readonly stride: number;
}

/** Contiguous rows of `depth` numbers: row i at `(first + i) * depth`. */
interface Rows {
  readonly data: Float64Array;
  readonly first: number;
  readonly count: number;
}

/** C += factor · A Bᵀ by tiles of 4 × 2 dot products, so that each loaded number is used more than once. */
function addProductOfRows(c: Target, factor: number, a: Rows, b: Rows, depth: number): void {
  const x = a.data;
  const y = b.data;
  const out = c.data;
  for (let j0 = 0; j0 < b.count; j0 += BLOCK) {
    const j1 = Math.min(b.count, j0 + BLOCK);
    let i = 0;
    for (; i + 3 < a.count; i += 4) {
      const a0 = (a.first + i) * depth;
      const a1 = a0 + depth;
      const a2 = a1 + depth;
      const a3 = a2 + depth;
      const c0 = c.start + i * c.stride;
      const c1 = c0 + c.stride;
      const c2 = c1 + c.stride;
      const c3 = c2 + c.stride;
      let j = j0;
      for (; j + 1 < j1; j += 2) {
        const b0 = (b.first + j) * depth;
        const b1 = b0 + depth;
        let s00 = 0;
        let s01 = 0;
        let s10 = 0;
        let s11 = 0;
        let s20 = 0;
        let s21 = 0;
        let s30 = 0;
        let s31 = 0;
        for (let k = 0; k < depth; k++) {
          const y0 = y[b0 + k]!;
          const y1 = y[b1 + k]!;
          const x0 = x[a0 + k]!;
          const x1 = x[a1 + k]!;
          const x2 = x[a2 + k]!;
          const x3 = x[a3 + k]!;
          s00 += x0 * y0;
          s01 += x0 * y1;
          s10 += x1 * y0;
          s11 += x1 * y1;
          s20 += x2 * y0;
          s21 += x2 * y1;
          s30 += x3 * y0;
          s31 += x3 * y1;
        }
        out[c0 + j]! += factor * s00;
        out[c0 + j + 1]! += factor * s01;
        out[c1 + j]! += factor * s10;
        out[c1 + j + 1]! += factor * s11;
        out[c2 + j]! += factor * s20;
        out[c2 + j + 1]! += factor * s21;
        out[c3 + j]! += factor * s30;
        out[c3 + j + 1]! += factor * s31;
      }
      if (j < j1) {
        const b0 = (b.first + j) * depth;
        out[c0 + j]! += factor * dot(x, a0, y, b0, depth);
        out[c1 + j]! += factor * dot(x, a1, y, b0, depth);
        out[c2 + j]! += factor * dot(x, a2, y, b0, depth);
        out[c3 + j]! += factor * dot(x, a3, y, b0, depth);
      }
    }
    for (; i < a.count; i++) {
      const a0 = (a.first + i) * depth;
      const c0 = c.start + i * c.stride;
      for (let j = j0; j < j1; j++) out[c0 + j]! += factor * dot(x, a0, y, (b.first + j) * depth, depth);
    }
  }
}

/** A Bᵀ [m, k] of A [m, n] and B [k, n]. @throws {ShapeError} if the inner sizes differ. */
export function multiplyTransposed(a: Matrix, b: Matrix): Matrix {
  const result = emptyTransposedProduct(a, b);
  addProductOfRows(
    { data: result.data, start: 0, stride: b.rows },
    1,
    { data: a.data, first: 0, count: a.rows },
    { data: b.data, first: 0, count: b.rows },
    a.cols,
  );
  return result;
}

/** `multiplyTransposed` in steps, to the same bits. */
export function* multiplyTransposedSteps(a: Matrix, b: Matrix): Steps<Matrix> {
  const result = emptyTransposedProduct(a, b);
  // Whole tiles: rows that are left over are summed in another order.
  const rows = 4 * Math.max(1, Math.floor(STEP_PRODUCTS / (4 * BLOCK * Math.max(1, a.cols))));
  for (let j = 0; j < b.rows; j += BLOCK) {
    const right = { data: b.data, first: j, count: Math.min(BLOCK, b.rows - j) };
    for (let i = 0; i < a.rows; i += rows) {
      const left = { data: a.data, first: i, count: Math.min(rows, a.rows - i) };
      addProductOfRows({ data: result.data, start: i * b.rows + j, stride: b.rows }, 1, left, right, a.cols);
      yield;
    }
  }
  return result;
}

function emptyTransposedProduct(a: Matrix, b: Matrix): Matrix {
  if (a.cols === b.cols) return matrix(a.rows, b.rows);
  throw new ShapeError(`A Bᵀ: expected equal columns, got [${a.rows}, ${a.cols}] and [${b.rows}, ${b.cols}]`);
}

/** A B [m, k] of A [m, n] and B [n, k]. @throws {ShapeError} if the inner sizes differ. */
export function multiply(a: Matrix, b: Matrix): Matrix {
  const result = emptyProduct(a, b);
  for (let k = 0; k < a.cols; k += BLOCK) addBlockProduct(result, a, b, k, 0, a.rows);
  return result;
}

/** `multiply` in steps, to the same bits. */
export function* multiplySteps(a: Matrix, b: Matrix): Steps<Matrix> {
  const result = emptyProduct(a, b);
  const rows = Math.max(1, Math.floor(STEP_PRODUCTS / (BLOCK * Math.max(1, b.cols))));
  for (let k = 0; k < a.cols; k += BLOCK) {
    for (let i = 0; i < a.rows; i += rows) {
      addBlockProduct(result, a, b, k, i, Math.min(a.rows, i + rows));
      yield;
    }
  }
  return result;
}

function emptyProduct(a: Matrix, b: Matrix): Matrix {
  if (a.cols === b.rows) return matrix(a.rows, b.cols);
  throw new ShapeError(
    `A B: expected as many rows as columns, got [${a.rows}, ${a.cols}] and [${b.rows}, ${b.cols}]`,
  );
}

/** Rows [i0, i1) of C += A[:, k0:k0 + BLOCK] B[k0:k0 + BLOCK, :]. */
function addBlockProduct(c: Matrix, a: Matrix, b: Matrix, k0: number, i0: number, i1: number): void {
  const k1 = Math.min(a.cols, k0 + BLOCK);
  for (let i = i0; i < i1; i++) {
    for (let k = k0; k < k1; k++) {
      addScaled(a.data[i * a.cols + k]!, b.data, k * b.cols, c.data, i * b.cols, b.cols);
    }
  }
}

/**
 * Symmetric update of the lower triangle: C += factor · P Pᵀ, C [size, size] at `start + i * stride + j` of `data`,
 * P [size, depth] contiguous. Nothing above C's diagonal is written.
 */
export function addSymmetricProduct(
  data: Float64Array,
  start: number,
  stride: number,
  factor: number,
  panel: Float64Array,
  size: number,
  depth: number,
): void {
  const scratch = new Float64Array(DIAGONAL_BLOCK * DIAGONAL_BLOCK);
  for (let i0 = 0; i0 < size; i0 += DIAGONAL_BLOCK) {
    const count = Math.min(DIAGONAL_BLOCK, size - i0);
    const rows = { data: panel, first: i0, count };
    const left = { data: panel, first: 0, count: i0 };
    addProductOfRows({ data, start: start + i0 * stride, stride }, factor, rows, left, depth);
    scratch.fill(0);
    addProductOfRows({ data: scratch, start: 0, stride: count }, factor, rows, rows, depth);
    for (let i = 0; i < count; i++) {
      const row = start + (i0 + i) * stride + i0;
      for (let j = 0; j <= i; j++) data[row + j]! += scratch[i * count + j]!;
    }
  }
}
