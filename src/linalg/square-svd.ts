/**
 * Singular values and vectors of a square matrix: Householder reduction to a bidiagonal matrix, then QR steps with shifts
 * (Golub & Kahan). Singular vectors are kept as rows throughout, so that every inner loop is contiguous.
 * Source: LINPACK's DSVDC as JAMA and ml-matrix 6.15 (MIT) have it; the same operations in the same order, hence the same
 * bits. Differs in that it yields between steps, and gives up where it does not converge.
 */
import { NumericalError } from '../errors.ts';
import type { Steps } from '../pace.ts';
import { type Matrix, matrix, transpose } from './matrix.ts';

/** A [n, n] = U diag(s) Vᵀ; all [n, n], s descending and ≥ 0. */
export interface SquareSvd {
  readonly u: Matrix;
  readonly singularValues: Float64Array;
  readonly v: Matrix;
}

/** QR steps on one singular value at most; real matrices take three or four. */
const MAX_STEPS = 500;

/** @throws {NumericalError} if the iteration does not converge */
export function* squareSvdSteps(input: Matrix): Steps<SquareSvd> {
  const n = input.rows;
  const work: Workspace = {
    n,
    a: transpose(input).data,
    u: new Float64Array(n * n),
    v: new Float64Array(n * n),
    s: new Float64Array(n),
    e: new Float64Array(n),
  };
  yield* bidiagonalise(work);
  yield* accumulateLeft(work);
  yield* accumulateRight(work);
  yield* diagonalise(work);
  return {
    u: transpose(matrix(n, n, work.u)),
    singularValues: work.s,
    v: transpose(matrix(n, n, work.v)),
  };
}

interface Workspace {
  readonly n: number;
  /** Row j is column j of the matrix; spoilt. */
  readonly a: Float64Array;
  /** Row j becomes the left singular vector j. */
  readonly u: Float64Array;
  readonly v: Float64Array;
  /** The diagonal, in the end the singular values. */
  readonly s: Float64Array;
  /** Entry i couples i and i + 1. */
  readonly e: Float64Array;
}

function* bidiagonalise({ n, a, u, v, s, e }: Workspace): Steps<void> {
  const work = new Float64Array(n);
  const [columns, rows] = [n - 1, Math.max(0, n - 2)];
  for (let k = 0; k < columns; k++) {
    const own = k * n;
    s[k] = 0;
    for (let i = k; i < n; i++) s[k] = hypotenuse(s[k]!, a[own + i]!);
    if (s[k] !== 0) {
      if (a[own + k]! < 0) s[k] = -s[k]!;
      for (let i = k; i < n; i++) a[own + i]! /= s[k]!;
      a[own + k]! += 1;
    }
    s[k] = -s[k]!;
    for (let j = k + 1; j < n; j++) {
      if (s[k] !== 0) {
        const t = -product(a, own, a, j * n, k, n) / a[own + k]!;
        add(t, a, own, a, j * n, k, n);
      }
      e[j] = a[j * n + k]!;
    }
    u.set(a.subarray(own + k, own + n), own + k);
    if (k < rows) {
      e[k] = 0;
      for (let i = k + 1; i < n; i++) e[k] = hypotenuse(e[k]!, e[i]!);
      if (e[k] !== 0) {
        if (e[k + 1]! < 0) e[k] = 0 - e[k]!;
        for (let i = k + 1; i < n; i++) e[i]! /= e[k]!;
        e[k + 1]! += 1;
      }
      e[k] = -e[k]!;
      if (e[k] !== 0) {
        work.fill(0, k + 1);
        for (let j = k + 1; j < n; j++) add(e[j]!, a, j * n, work, 0, k + 1, n);
        for (let j = k + 1; j < n; j++) add(-e[j]! / e[k + 1]!, work, 0, a, j * n, k + 1, n);
      }
      v.set(e.subarray(k + 1), own + k + 1);
    }
    yield;
  }
  s[n - 1] = a[n * n - 1]!;
  if (rows + 1 < n) e[rows] = a[(n - 1) * n + rows]!;
  e[n - 1] = 0;
}

function* accumulateLeft({ n, u, s }: Workspace): Steps<void> {
  u.fill(0, (n - 1) * n);
  u[n * n - 1] = 1;
  for (let k = n - 2; k >= 0; k--) {
    const own = k * n;
    if (s[k] === 0) {
      u.fill(0, own, own + n);
      u[own + k] = 1;
      continue;
    }
    for (let j = k + 1; j < n; j++) {
      const t = -product(u, own, u, j * n, k, n) / u[own + k]!;
      add(t, u, own, u, j * n, k, n);
    }
    for (let i = k; i < n; i++) u[own + i] = -u[own + i]!;
    u[own + k] = 1 + u[own + k]!;
    yield;
  }
}

function* accumulateRight({ n, v, e }: Workspace): Steps<void> {
  for (let k = n - 1; k >= 0; k--) {
    const own = k * n;
    if (k < n - 2 && e[k] !== 0) {
      for (let j = k + 1; j < n; j++) {
        const t = -product(v, own, v, j * n, k + 1, n) / v[own + k + 1]!;
        add(t, v, own, v, j * n, k + 1, n);
      }
    }
    v.fill(0, own, own + n);
    v[own + k] = 1;
    yield;
  }
}

function* diagonalise(work: Workspace): Steps<void> {
  const { n, u, v, s, e } = work;
  let steps = 0;
  for (let p = n; p > 0; ) {
    yield;
    const { kind, from } = nextStep(work, p);
    if (kind === 'converged') {
      settle(work, from);
      steps = 0;
      p--;
      continue;
    }
    if (++steps > MAX_STEPS) {
      throw new NumericalError(`svd of a matrix [${n}, ${n}]: not converged after ${MAX_STEPS} QR steps`);
    }
    if (kind === 'last is zero') {
      let f = e[p - 2]!;
      e[p - 2] = 0;
      for (let j = p - 2; j >= from; j--) {
        const t = hypotenuse(s[j]!, f);
        const [cosine, sine] = [s[j]! / t, f / t];
        s[j] = t;
        if (j !== from) {
          f = -sine * e[j - 1]!;
          e[j - 1] = cosine * e[j - 1]!;
        }
        rotate(v, j * n, (p - 1) * n, n, cosine, sine);
      }
    } else if (kind === 'one is zero') {
      let f = e[from - 1]!;
      e[from - 1] = 0;
      for (let j = from; j < p; j++) {
        const t = hypotenuse(s[j]!, f);
        const [cosine, sine] = [s[j]! / t, f / t];
        s[j] = t;
        f = -sine * e[j]!;
        e[j] = cosine * e[j]!;
        rotate(u, j * n, (from - 1) * n, n, cosine, sine);
      }
    } else {
      qrStep(work, from, p);
    }
  }
}

/** What to do with the block that ends at p, and where it begins. */
function nextStep(
  { s, e }: Workspace,
  p: number,
): { kind: 'converged' | 'last is zero' | 'one is zero' | 'step'; from: number } {
  let k = p - 2;
  for (; k >= 0; k--) {
    const least = Number.MIN_VALUE + Number.EPSILON * Math.abs(s[k]! + Math.abs(s[k + 1]!));
    if (Math.abs(e[k]!) <= least || Number.isNaN(e[k]!)) {
      e[k] = 0;
      break;
    }
  }
  if (k === p - 2) return { kind: 'converged', from: k + 1 };
  let zero = p - 1;
  for (; zero > k; zero--) {
    const t = Math.abs(e[zero]!) + (zero !== k + 1 ? Math.abs(e[zero - 1]!) : 0);
    if (Math.abs(s[zero]!) <= Number.EPSILON * t) {
      s[zero] = 0;
      break;
    }
  }
  if (zero === k) return { kind: 'step', from: k + 1 };
  return zero === p - 1 ? { kind: 'last is zero', from: k + 1 } : { kind: 'one is zero', from: zero + 1 };
}

function qrStep({ n, u, v, s, e }: Workspace, k: number, p: number): void {
  const scale = Math.max(
    Math.abs(s[p - 1]!),
    Math.abs(s[p - 2]!),
    Math.abs(e[p - 2]!),
    Math.abs(s[k]!),
    Math.abs(e[k]!),
  );
  const [last, before, coupling] = [s[p - 1]! / scale, s[p - 2]! / scale, e[p - 2]! / scale];
  const [first, next] = [s[k]! / scale, e[k]! / scale];
  const b = ((before + last) * (before - last) + coupling * coupling) / 2;
  const c = last * coupling * (last * coupling);
  let shift = 0;
  if (b !== 0 || c !== 0) {
    shift = b < 0 ? 0 - Math.sqrt(b * b + c) : Math.sqrt(b * b + c);
    shift = c / (b + shift);
  }
  let f = (first + last) * (first - last) + shift;
  let g = first * next;
  for (let j = k; j < p - 1; j++) {
    let t = hypotenuse(f, g) || Number.MIN_VALUE;
    let [cosine, sine] = [f / t, g / t];
    if (j !== k) e[j - 1] = t;
    f = cosine * s[j]! + sine * e[j]!;
    e[j] = cosine * e[j]! - sine * s[j]!;
    g = sine * s[j + 1]!;
    s[j + 1] = cosine * s[j + 1]!;
    rotate(v, j * n, (j + 1) * n, n, cosine, sine);
    t = hypotenuse(f, g) || Number.MIN_VALUE;
    [cosine, sine] = [f / t, g / t];
    s[j] = t;
    f = cosine * e[j]! + sine * s[j + 1]!;
    s[j + 1] = -sine * e[j]! + cosine * s[j + 1]!;
    g = sine * e[j + 1]!;
    e[j + 1] = cosine * e[j + 1]!;
    rotate(u, j * n, (j + 1) * n, n, cosine, sine);
  }
  e[p - 2] = f;
}

/** A converged value: made positive, and moved to its place among those after it. */
function settle({ n, u, v, s }: Workspace, from: number): void {
  if (s[from]! <= 0) {
    s[from] = s[from]! < 0 ? -s[from]! : 0;
    for (let i = 0; i < n; i++) v[from * n + i] = -v[from * n + i]!;
  }
  for (let k = from; k < n - 1 && !(s[k]! >= s[k + 1]!); k++) {
    [s[k], s[k + 1]] = [s[k + 1]!, s[k]!];
    swapRows(v, k * n, (k + 1) * n, n);
    swapRows(u, k * n, (k + 1) * n, n);
  }
}

/** √(a² + b²) without overflow. */
function hypotenuse(a: number, b: number): number {
  if (Math.abs(a) > Math.abs(b)) {
    const ratio = b / a;
    return Math.abs(a) * Math.sqrt(1 + ratio * ratio);
  }
  if (b === 0) return 0;
  const ratio = a / b;
  return Math.abs(b) * Math.sqrt(1 + ratio * ratio);
}

/** Σ x[i] y[i] over [from, to), one after the other. */
function product(
  x: Float64Array,
  xStart: number,
  y: Float64Array,
  yStart: number,
  from: number,
  to: number,
): number {
  let sum = 0;
  for (let i = from; i < to; i++) sum += x[xStart + i]! * y[yStart + i]!;
  return sum;
}

/** y[i] += factor · x[i] over [from, to). */
function add(
  factor: number,
  x: Float64Array,
  xStart: number,
  y: Float64Array,
  yStart: number,
  from: number,
  to: number,
): void {
  for (let i = from; i < to; i++) y[yStart + i]! += factor * x[xStart + i]!;
}

/** (x, y) ← (c·x + s·y, −s·x + c·y). */
function rotate(z: Float64Array, x: number, y: number, length: number, c: number, s: number): void {
  for (let i = 0; i < length; i++) {
    const [a, b] = [z[x + i]!, z[y + i]!];
    z[y + i] = -s * a + c * b;
    z[x + i] = c * a + s * b;
  }
}

function swapRows(z: Float64Array, x: number, y: number, length: number): void {
  const kept = z.slice(x, x + length);
  z.copyWithin(x, y, y + length);
  z.set(kept, y);
}
