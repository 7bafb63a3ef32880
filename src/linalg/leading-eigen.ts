/**
 * All eigenvalues of a symmetric matrix, and the eigenvectors of the largest few: reduction to a tridiagonal matrix, its
 * values by QL steps without vectors, and vectors by inverse iteration, each made orthogonal to those before it. For half
 * of the vectors or more, and wherever a vector does not come out exact, `linalg/eigh.ts` does it; it also judges this.
 * Source: LAPACK's DSTERF and DSTEIN in outline; Golub & Van Loan, Matrix Computations, 4th ed., §8.2.2, §8.3.
 */
import { NumericalError } from '../errors.ts';
import type { Steps } from '../pace.ts';
import { eighSteps } from './eigh.ts';
import { assertFinite, assertSquare, type Matrix, matrix } from './matrix.ts';
import { addScaled, dot } from './products.ts';
import { type Reduction, reflectBackSteps, tridiagonaliseSteps } from './tridiagonal.ts';

export interface LeadingEigen {
  /** All of them, descending. */
  readonly values: Float64Array;
  /** [count, n]: row k is the unit eigenvector of values[k]; its sign is free. @param count ≤ n */
  vectors(count: number): Steps<Matrix>;
}

/**
 * @param a [n, n], symmetric. Not changed, and must not be until the vectors are there
 * @throws {ShapeError} if A is not square
 * @throws {NumericalError} if A holds NaN or infinity, or the iteration does not converge
 */
export function* leadingEigenSteps(a: Matrix): Steps<LeadingEigen> {
  assertSquare('eigenvalues', a);
  assertFinite(`eigenvalues of a matrix [${a.rows}, ${a.rows}]`, a.data);
  const n = a.rows;
  const reduction = yield* tridiagonaliseSteps(a);
  const unit = scaledToOne(reduction);
  const scaled = yield* tridiagonalValues(unit);
  const values = scaled.map((value) => value * unit.scale);
  return {
    values,
    *vectors(count) {
      const rows = 2 * count < n ? yield* tridiagonalVectors(unit, scaled.subarray(0, count)) : null;
      if (rows === null) return lastRowsReversed((yield* eighSteps(a)).vectors, count);
      yield* reflectBackSteps(reduction, rows.data, count);
      return rows;
    },
  };
}

/** T divided by its largest number, so that squares neither overflow nor vanish. */
interface UnitTridiagonal {
  readonly diagonal: Float64Array;
  /** [n], the last is 0. */
  readonly offDiagonal: Float64Array;
  readonly scale: number;
}

function scaledToOne({ diagonal, offDiagonal }: Reduction): UnitTridiagonal {
  let scale = 0;
  for (let i = 0; i < diagonal.length; i++) {
    scale = Math.max(scale, Math.abs(diagonal[i]!), Math.abs(offDiagonal[i]!));
  }
  const by = (value: number): number => (scale > 0 ? value / scale : 0);
  return { diagonal: diagonal.map(by), offDiagonal: offDiagonal.map(by), scale };
}

/** Eigenvalues, descending. */
function* tridiagonalValues({ diagonal, offDiagonal }: UnitTridiagonal): Steps<Float64Array> {
  const n = diagonal.length;
  const d = Float64Array.from(diagonal);
  const e = Float64Array.from(offDiagonal);
  let steps = 0;
  for (let low = 0; low < n; low++) {
    if (low % 16 === 0) yield;
    for (;;) {
      let high = low;
      for (; high < n - 1; high++) {
        const around = Math.abs(d[high]!) + Math.abs(d[high + 1]!);
        // Numbers below the rounding of the largest, which is 1, are none.
        if (Math.abs(e[high]!) <= Number.EPSILON * around || Math.abs(e[high]!) < 1e-18) break;
      }
      if (high === low) break;
      if (++steps > 60 * n) {
        throw new NumericalError(
          `eigenvalues of a matrix [${n}, ${n}]: not converged after ${60 * n} QL steps`,
        );
      }
      qlStep(d, e, low, high);
    }
  }
  return d.sort().reverse();
}

/** One implicit QL step with Wilkinson's shift on rows [low, high]. */
function qlStep(d: Float64Array, e: Float64Array, low: number, high: number): void {
  const half = (d[low + 1]! - d[low]!) / (2 * e[low]!);
  let g = d[high]! - d[low]! + e[low]! / (half + Math.sign(half || 1) * Math.sqrt(half * half + 1));
  let [sine, cosine, shift] = [1, 1, 0];
  for (let i = high - 1; i >= low; i--) {
    const f = sine * e[i]!;
    const b = cosine * e[i]!;
    const r = Math.sqrt(f * f + g * g);
    e[i + 1] = r;
    if (r === 0) {
      // The block fell apart in the middle.
      d[i + 1]! -= shift;
      e[high] = 0;
      return;
    }
    sine = f / r;
    cosine = g / r;
    g = d[i + 1]! - shift;
    const t = (d[i]! - g) * sine + 2 * cosine * b;
    shift = sine * t;
    d[i + 1] = g + shift;
    g = cosine * t - b;
  }
  d[low]! -= shift;
  e[low] = g;
  e[high] = 0;
}

/** Solutions of one vector at most; two do for most. */
const MOST_SOLUTIONS = 6;
/** Largest number of T z − λ z, for T of largest number 1. */
const LARGEST_RESIDUAL = 32 * Number.EPSILON;

/** Unit eigenvectors as rows; `null` if one does not converge. */
function* tridiagonalVectors(t: UnitTridiagonal, values: Float64Array): Steps<Matrix | null> {
  const n = t.diagonal.length;
  const rows = matrix(values.length, n);
  const { data } = rows;
  const factors = new ShiftedFactors(n);
  let seed = 1;
  for (let k = 0; k < values.length; k++) {
    if (k % 8 === 0) yield;
    const own = k * n;
    const z = data.subarray(own, own + n);
    for (let i = 0; i < n; i++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) | 0;
      z[i] = seed / 2 ** 31;
    }
    factors.factorise(t, values[k]!);
    for (let solutions = 1; ; solutions++) {
      factors.solve(z);
      let largest = 0;
      for (let i = 0; i < n; i++) largest = Math.max(largest, Math.abs(z[i]!));
      for (let i = 0; i < n; i++) z[i]! /= largest;
      for (let other = 0; other < own; other += n) {
        addScaled(-dot(data, other, data, own, n), data, other, data, own, n);
      }
      const norm = Math.sqrt(dot(z, 0, z, 0, n));
      for (let i = 0; i < n; i++) z[i]! /= norm;
      if (solutions > 1 && residual(t, values[k]!, z) <= LARGEST_RESIDUAL) break;
      if (solutions === MOST_SOLUTIONS) return null;
    }
  }
  return rows;
}

/** The largest number of T z − λ z; NaN is none. */
function residual({ diagonal, offDiagonal }: UnitTridiagonal, value: number, z: Float64Array): number {
  const n = z.length;
  let largest = 0;
  for (let i = 0; i < n; i++) {
    const before = i > 0 ? offDiagonal[i - 1]! * z[i - 1]! : 0;
    const after = i < n - 1 ? offDiagonal[i]! * z[i + 1]! : 0;
    const error = Math.abs(before + (diagonal[i]! - value) * z[i]! + after);
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

/** T − λ I = P L U with exchanged rows, for one λ after the other in the same memory. */
class ShiftedFactors {
  readonly #diagonal: Float64Array;
  readonly #first: Float64Array;
  readonly #second: Float64Array;
  readonly #lower: Float64Array;
  readonly #exchanged: Uint8Array;

  constructor(n: number) {
    this.#diagonal = new Float64Array(n);
    this.#first = new Float64Array(n);
    this.#second = new Float64Array(n);
    this.#lower = new Float64Array(n);
    this.#exchanged = new Uint8Array(n);
  }

  factorise({ diagonal, offDiagonal }: UnitTridiagonal, value: number): void {
    const [d, u, s, l] = [this.#diagonal, this.#first, this.#second, this.#lower];
    const n = diagonal.length;
    // The row under way: its pivot, and its right neighbour.
    let pivot = diagonal[0]! - value;
    let right = offDiagonal[0]!;
    for (let i = 0; i < n - 1; i++) {
      const below = offDiagonal[i]!;
      const next = diagonal[i + 1]! - value;
      if (Math.abs(pivot) >= Math.abs(below)) {
        this.#exchanged[i] = 0;
        d[i] = nonZero(pivot);
        u[i] = right;
        s[i] = 0;
        l[i] = below / d[i]!;
        pivot = next - l[i]! * right;
        right = offDiagonal[i + 1]!;
      } else {
        this.#exchanged[i] = 1;
        d[i] = below;
        u[i] = next;
        s[i] = offDiagonal[i + 1]!;
        l[i] = pivot / below;
        pivot = right - l[i]! * next;
        right = -l[i]! * s[i]!;
      }
    }
    d[n - 1] = nonZero(pivot);
  }

  /** (T − λ I)⁻¹ z in place. */
  solve(z: Float64Array): void {
    const n = z.length;
    for (let i = 0; i < n - 1; i++) {
      const [upper, lower] = this.#exchanged[i] === 1 ? [z[i + 1]!, z[i]!] : [z[i]!, z[i + 1]!];
      z[i] = upper;
      z[i + 1] = lower - this.#lower[i]! * upper;
    }
    for (let i = n - 1; i >= 0; i--) {
      let value = z[i]!;
      if (i < n - 1) value -= this.#first[i]! * z[i + 1]!;
      if (i < n - 2) value -= this.#second[i]! * z[i + 2]!;
      z[i] = value / this.#diagonal[i]!;
    }
  }
}

/** A pivot that is zero makes its solution as large as rounding allows: that is the eigenvector. */
const nonZero = (pivot: number): number =>
  Math.abs(pivot) < Number.EPSILON * Number.EPSILON ? Number.EPSILON * Number.EPSILON : pivot;

/** The last `count` rows, the last first. */
function lastRowsReversed({ rows: n, data }: Matrix, count: number): Matrix {
  const result = matrix(count, n);
  for (let k = 0; k < count; k++) {
    result.data.set(data.subarray((n - 1 - k) * n, (n - k) * n), k * n);
  }
  return result;
}
