/**
 * Gram matrices G = XᵀX [n, n] of features X [N, n]: accumulated in float64 while features stream by, packed to
 * half their size for storage, or left as their few rows; and the few operations that solvers need on every form.
 */
import { ShapeError } from '../errors.ts';
import { inOneGo, type Steps } from '../pace.ts';
import { assertSquare, type Matrix, matrix } from './matrix.ts';
import {
  addScaled,
  addSymmetricProduct,
  dot,
  multiplySteps,
  multiplyTransposed,
  multiplyTransposedSteps,
} from './products.ts';

/**
 * The upper triangle of a symmetric [size, size], row by row: (0,0) … (0,n−1), (1,1) …; size (size + 1) / 2 numbers. Those
 * in float32 are rounded, as earlier versions stored them.
 */
export interface PackedSymmetric {
  readonly size: number;
  readonly packed: Float32Array | Float64Array;
}

/** A symmetric matrix, dense or packed. */
export type Gram = Matrix | PackedSymmetric;

/** G = XᵀX given by X itself [N, n]: the smaller form, and the more exact one, where rows are few (N < n). */
export interface FeatureRows {
  readonly features: Matrix;
}

/** A Gram matrix in any form. */
export type GramTerm = Gram | FeatureRows;

/** Rows of features taken together in one update. */
const CHUNK_ROWS = 64;

/** Side of the blocks in which matrices are symmetrised: two of them fit the first cache. */
const BLOCK = 32;

/** Rows [start, end) of a Gram matrix, of which columns [start, n) are computed. */
export interface GramStrip {
  readonly start: number;
  readonly end: number;
}

/** From this width on a Gram matrix is computed in strips: 5/8 of its products, of which the plain one makes all twice. */
const STRIPS_FROM_WIDTH = 256;
const STRIPS = 4;

/** The strips that cover the upper triangle of [n, n]; one holds all of a small matrix. */
export function gramStrips(size: number): GramStrip[] {
  const count = size < STRIPS_FROM_WIDTH ? 1 : STRIPS;
  const height = Math.ceil(size / count);
  return Array.from({ length: count }, (_, s) => ({
    start: s * height,
    end: Math.min(size, (s + 1) * height),
  }));
}

/** n of a Gram matrix [n, n]. */
export function gramSize(gram: GramTerm): number {
  if ('features' in gram) return gram.features.cols;
  return 'packed' in gram ? gram.size : gram.rows;
}

/** Numbers in the packed form of [n, n]. */
export function packedLength(size: number): number {
  return (size * (size + 1)) / 2;
}

/** View packed numbers as a symmetric matrix (not copied). @throws {ShapeError} if the length is not size (size + 1) / 2. */
export function packedSymmetric(size: number, packed: Float32Array | Float64Array): PackedSymmetric {
  if (packed.length !== packedLength(size)) {
    throw new ShapeError(
      `packed symmetric [${size}, ${size}]: expected ${packedLength(size)} numbers, got ${packed.length}`,
    );
  }
  return { size, packed };
}

/** The upper triangle of symmetric A [n, n]. @throws {ShapeError} if A is not square. */
export function packFloat64(a: Matrix): PackedSymmetric & { readonly packed: Float64Array } {
  assertSquare('packing', a);
  const n = a.rows;
  const packed = new Float64Array(packedLength(n));
  let at = 0;
  for (let i = 0; i < n; i++) {
    packed.set(a.data.subarray(i * n + i, (i + 1) * n), at);
    at += n - i;
  }
  return { size: n, packed };
}

/**
 * The dense float64 matrix of a Gram matrix; a dense one is returned as it is.
 * @param scratch [n, n] to fill and return in place of a new matrix, whatever it holds
 */
export function toDenseGram(gram: GramTerm, scratch?: Matrix): Matrix {
  if ('rows' in gram) return gram;
  const n = gramSize(gram);
  const result = scratch ?? matrix(n, n);
  if ('features' in gram) {
    result.data.fill(0);
    addGramTo(result, gram, 1);
    return result;
  }
  const { packed } = gram;
  for (let i = 0, at = 0; i < n; i++) {
    result.data.set(packed.subarray(at, at + n - i), i * n + i);
    at += n - i;
  }
  for (let top = 0; top < n; top += BLOCK) {
    for (let left = 0; left <= top; left += BLOCK) {
      for (let i = top; i < Math.min(top + BLOCK, n); i++) {
        const last = Math.min(left + BLOCK, i);
        for (let j = left; j < last; j++) result.data[i * n + j] = result.data[j * n + i]!;
      }
    }
  }
  return result;
}

/** target += factor · G. @throws {ShapeError} if the sizes differ. */
export function addGramTo(target: Matrix, gram: GramTerm, factor: number): void {
  inOneGo(addGramSteps(target, gram, factor));
}

/** `addGramTo` in steps. */
export function* addGramSteps(target: Matrix, gram: GramTerm, factor: number): Steps<void> {
  yield;
  const n = gramSize(gram);
  if (target.rows !== n || target.cols !== n) {
    throw new ShapeError(`Gram sum: expected [${target.rows}, ${target.cols}], got [${n}, ${n}]`);
  }
  if ('features' in gram) {
    const accumulator = new GramAccumulator(n);
    yield* accumulator.addRowsSteps(gram.features.data);
    yield* addGramSteps(target, accumulator.toMatrix(), factor);
    return;
  }
  if ('rows' in gram) {
    addScaled(factor, gram.data, 0, target.data, 0, n * n);
    return;
  }
  let at = 0;
  for (let i = 0; i < n; i++) {
    target.data[i * n + i]! += factor * gram.packed[at++]!;
    for (let j = i + 1; j < n; j++) {
      const value = factor * gram.packed[at++]!;
      target.data[i * n + j]! += value;
      target.data[j * n + i]! += value;
    }
  }
}

/** Σ Gⱼⱼ: the squared Frobenius norm of the features. */
export function gramTrace(gram: GramTerm): number {
  if ('features' in gram) {
    const { data } = gram.features;
    return dot(data, 0, data, 0, data.length);
  }
  const n = gramSize(gram);
  let sum = 0;
  if ('packed' in gram) {
    for (let i = 0, at = 0; i < n; at += n - i, i++) sum += gram.packed[at]!;
  } else {
    for (let i = 0; i < n; i++) sum += gram.data[i * n + i]!;
  }
  return sum;
}

/** A G [r, n] of rows A [r, n]. @throws {ShapeError} if the widths differ. */
export function multiplyByGram(a: Matrix, gram: GramTerm): Matrix {
  return inOneGo(multiplyByGramSteps(a, gram));
}

/** `multiplyByGram` in steps, to the same bits. */
export function* multiplyByGramSteps(a: Matrix, gram: GramTerm): Steps<Matrix> {
  const n = gramSize(gram);
  if (a.cols !== n) {
    throw new ShapeError(`A G: expected rows of ${n} numbers, got [${a.rows}, ${a.cols}]`);
  }
  if ('features' in gram) {
    const seen = yield* multiplyTransposedSteps(a, gram.features);
    return yield* multiplySteps(seen, gram.features);
  }
  // G is symmetric, so A Gᵀ does, along rows of both.
  if ('rows' in gram) return yield* multiplyTransposedSteps(a, gram);
  const result = matrix(a.rows, n);
  const row = new Float64Array(n);
  let at = 0;
  for (let i = 0; i < n; i++) {
    const length = n - i - 1;
    const corner = gram.packed[at]!;
    for (let j = 0; j < length; j++) row[j] = gram.packed[at + 1 + j]!;
    at += n - i;
    for (let r = 0; r < a.rows; r++) {
      const from = r * n + i;
      result.data[from]! += corner * a.data[from]! + dot(row, 0, a.data, from + 1, length);
      addScaled(a.data[from]!, row, 0, result.data, from + 1, length);
    }
    yield;
  }
  return result;
}

/** tr(E G Eᵀ) = ‖X Eᵀ‖²_F for E [k, n]; never below zero. @throws {ShapeError} if the widths differ. */
export function quadraticTrace(e: Matrix, gram: GramTerm): number {
  if ('features' in gram) {
    const { data } = multiplyTransposed(gram.features, e);
    return dot(data, 0, data, 0, data.length);
  }
  const product = multiplyByGram(e, gram);
  // Rounding of the Gram matrix can leave −1e-18 where the features give zero.
  return Math.max(0, dot(product.data, 0, e.data, 0, e.data.length));
}

/** Where row i of a packed [n, n] begins: at its diagonal. */
export const packedStart = (n: number, i: number): number => (i * (2 * n - i + 1)) / 2;

/**
 * A running float64 sum of Gram matrices [n, n]. Keeps one triangle, no features.
 */
export class GramAccumulator {
  readonly size: number;
  #rows = 0;
  /** Packed. */
  readonly #sum: Float64Array;

  constructor(size: number) {
    this.size = size;
    this.#sum = new Float64Array(packedLength(size));
  }

  /** Feature rows N added so far. */
  get rows(): number {
    return this.#rows;
  }

  /** Add XᵀX of features X [N, n], row-major. @throws {ShapeError} if the length is no multiple of n. */
  addRows(features: Float32Array | Float64Array): void {
    inOneGo(this.addRowsSteps(features));
  }

  /** `addRows` in steps. */
  *addRowsSteps(features: Float32Array | Float64Array): Steps<void> {
    const n = this.size;
    const rows = features.length / n;
    if (!Number.isInteger(rows)) {
      throw new ShapeError(`features: expected rows of ${n} numbers, got ${features.length} numbers`);
    }
    // The lower triangle of a whole matrix: products are added to rows of it.
    const sum = new Float64Array(n * n);
    for (let i = 0, at = 0; i < n; i++) {
      for (let j = i; j < n; j++) sum[j * n + i] = this.#sum[at++]!;
    }
    for (let first = 0; first < rows; first += CHUNK_ROWS) {
      const depth = Math.min(CHUNK_ROWS, rows - first);
      const columns = new Float64Array(n * depth);
      for (let k = 0; k < depth; k++) {
        for (let j = 0; j < n; j++) columns[j * depth + k] = features[(first + k) * n + j]!;
      }
      addSymmetricProduct(sum, 0, n, 1, columns, n, depth);
      yield;
    }
    for (let i = 0, at = 0; i < n; i++) {
      for (let j = i; j < n; j++) this.#sum[at++] = sum[j * n + i]!;
    }
    this.#rows += rows;
  }

  /**
   * Add a Gram matrix [n, n] that was computed elsewhere, of `rows` feature rows. Its two halves may differ by
   * rounding: their mean counts.
   *
   * @throws {ShapeError} if it does not have n² numbers
   */
  addGram(gram: Float32Array | Float64Array, rows: number): void {
    const n = this.size;
    if (gram.length !== n * n) {
      throw new ShapeError(`Gram matrix: expected [${n}, ${n}] = ${n * n} numbers, got ${gram.length}`);
    }
    const sum = this.#sum;
    for (let top = 0; top < n; top += BLOCK) {
      for (let left = 0; left <= top; left += BLOCK) {
        const right = Math.min(left + BLOCK, n);
        for (let j = left; j < right; j++) {
          const row = packedStart(n, j) - j;
          for (let i = Math.max(top, j); i < Math.min(top + BLOCK, n); i++) {
            sum[row + i]! += (gram[i * n + j]! + gram[j * n + i]!) / 2;
          }
        }
      }
    }
    this.#rows += rows;
  }

  /**
   * Add a Gram matrix [n, n] of `rows` feature rows, computed elsewhere: its strips (`gramStrips`) row by row, one after
   * the other.
   *
   * @throws {ShapeError} if there are not as many numbers
   */
  addStrips(values: Float64Array, rows: number): void {
    const n = this.size;
    const strips = gramStrips(n);
    const length = strips.reduce((sum, { start, end }) => sum + (end - start) * (n - start), 0);
    if (values.length !== length) {
      throw new ShapeError(
        `Gram matrix [${n}, ${n}] in strips: expected ${length} numbers, got ${values.length}`,
      );
    }
    const sum = this.#sum;
    let at = 0;
    let to = 0;
    for (const { start, end } of strips) {
      for (let i = start; i < end; i++, at += n - start) {
        for (let j = i - start; j < n - start; j++) sum[to++]! += values[at + j]!;
      }
    }
    this.#rows += rows;
  }

  /** Multiply everything added so far. The count of rows stays. */
  scale(factor: number): void {
    for (let i = 0; i < this.#sum.length; i++) this.#sum[i]! *= factor;
  }

  trace(): number {
    return gramTrace(this.toPacked());
  }

  /** The sum so far as a full symmetric matrix (a copy). */
  toMatrix(): Matrix {
    return toDenseGram(this.toPacked());
  }

  /** The sum so far, half the numbers; not a copy: what is added later shows. */
  toPacked(): PackedSymmetric & { readonly packed: Float64Array } {
    return { size: this.size, packed: this.#sum };
  }
}
