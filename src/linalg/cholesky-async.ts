/**
 * The blocked Cholesky factorisation, and solves with it, with their matrix products computed elsewhere, for matrices of
 * thousands of rows. `cholesky` judges it in tests.
 */
import { ShapeError } from '../errors.ts';
import { type CholeskyFactor, conditionOfPivots, diagonalOf, eliminatePanel } from './cholesky.ts';
import { type Gram, gramSize, packedStart } from './gram.ts';
import { type MatmulEngine, substitute, transposedTimes } from './matmul-engine.ts';
import { assertSquare, type Matrix, matrix, transpose } from './matrix.ts';
import { addScaled, copyRun } from './products.ts';
import { numbersOf, type ReusedMemory } from './reused-memory.ts';

/** Rows factorised at a time: enough for the engine, few enough for plain loops over the diagonal's blocks. */
export const ASYNC_PANEL_WIDTH = 64;
/** Panels in a block of columns: few products per panel, each of a matrix that the caches hold. */
const PANELS_PER_BLOCK = 10;
const BLOCK_WIDTH = ASYNC_PANEL_WIDTH * PANELS_PER_BLOCK;

/** A factor whose solves are computed elsewhere too. */
export interface AsyncCholeskyFactor {
  readonly size: number;
  /** As `conditionLowerBound`. */
  readonly condition: number;
  /** X = B A⁻¹ [k, n] for k right-hand sides as rows of B [k, n], as `solveRows`. @throws {ShapeError} if the widths differ */
  solveRows(b: Matrix): Promise<Matrix>;
  /** The factor as plain loops take it: a copy. */
  toLower(): CholeskyFactor;
}

/**
 * A = L Lᵀ for symmetric positive definite A [n, n], of which the upper triangle is read. Differs from `cholesky` in order: rows of
 * U = Lᵀ are made panel by panel, each taking all earlier ones into account at once (left-looking), as products with a long inner
 * axis; U lies in blocks of columns, so that the rows above a panel are one run of memory in each.
 *
 * @param memory that the factor lies in; without, memory of its own
 * @throws {ShapeError} if A is not square
 * @throws {NumericalError} if a pivot is not positive, or A holds NaN or infinity
 */
export async function choleskyAsync(
  a: Gram,
  engine: MatmulEngine,
  memory?: ReusedMemory,
): Promise<AsyncCholeskyFactor> {
  if ('rows' in a) assertSquare('cholesky', a);
  const factor = new BlockedFactor(gramSize(a), engine, memory);
  await factor.eliminate(a);
  return factor;
}

/** Rows [begin, end) of U, of which the diagonal block is inverted. */
interface Panel {
  readonly begin: number;
  readonly end: number;
  /** D [w, w], zeros below its diagonal. */
  readonly triangle: Matrix;
  /** D⁻¹ */
  readonly inverse: Matrix;
}

/** Columns [begin, end) of U, and its rows [0, end). */
interface Block {
  readonly begin: number;
  readonly end: number;
  readonly values: Matrix;
}

class BlockedFactor implements AsyncCholeskyFactor {
  readonly size: number;
  readonly #engine: MatmulEngine;
  readonly #blocks: readonly Block[];
  readonly #panels: Panel[] = [];
  /** Copies of columns above a panel. */
  readonly #columns: Float64Array;

  readonly #memory: ReusedMemory | undefined;

  constructor(size: number, engine: MatmulEngine, memory: ReusedMemory | undefined) {
    this.size = size;
    this.#engine = engine;
    this.#blocks = ranges(size, BLOCK_WIDTH).map(({ begin, end }) => ({
      begin,
      end,
      values: matrix(end, end - begin, numbersOf(memory, end * (end - begin))),
    }));
    this.#columns = numbersOf(memory, size * ASYNC_PANEL_WIDTH);
    this.#memory = memory;
  }

  get condition(): number {
    const pivots = new Float64Array(this.size);
    for (const { begin, triangle } of this.#panels) pivots.set(diagonalOf(triangle), begin);
    return conditionOfPivots(pivots);
  }

  async eliminate(a: Gram): Promise<void> {
    const n = this.size;
    const data = 'rows' in a ? a.data : a.packed;
    /** Where element (i, 0) of A would stand. */
    const rowStart = (i: number): number => ('rows' in a ? i * n : packedStart(n, i) - i);
    const diagonal = Float64Array.from({ length: n }, (_, i) => data[rowStart(i) + i]!);
    const rest = numbersOf(this.#memory, (BLOCK_WIDTH - ASYNC_PANEL_WIDTH) * n);
    const given = numbersOf(this.#memory, ASYNC_PANEL_WIDTH * BLOCK_WIDTH);
    const made = numbersOf(this.#memory, ASYNC_PANEL_WIDTH * BLOCK_WIDTH);
    const [triangles, inverses] = [this.#panelNumbers(), this.#panelNumbers()];
    for (const [p, { begin, end }] of ranges(n, ASYNC_PANEL_WIDTH).entries()) {
      const width = end - begin;
      /** Columns [left, right) of the panel's rows of A. */
      const rowsOf = (left: number, right: number): Matrix => {
        const rows = matrix(width, right - left, given.subarray(0, width * (right - left)));
        for (let i = 0; i < width; i++) {
          const row = rowStart(begin + i);
          copyRun(data, row + left, rows.data, i * (right - left), right - left);
        }
        return rows;
      };
      const own = this.#blocks[Math.floor(p / PANELS_PER_BLOCK)]!;
      const above = begin === 0 ? null : columnsOf(own, begin, begin, end, this.#columns);
      const corner = cornerOf(rowStart, data, begin, end, given);
      if (above !== null) {
        const into = matrix(width, width, made.subarray(0, width * width));
        const product = await transposedTimes(this.#engine, above, above, into);
        addScaled(-1, product.data, 0, corner.data, 0, corner.data.length);
      }
      const memory = {
        triangle: triangles.subarray(begin * ASYNC_PANEL_WIDTH, begin * ASYNC_PANEL_WIDTH + width * width),
        inverse: inverses.subarray(begin * ASYNC_PANEL_WIDTH, begin * ASYNC_PANEL_WIDTH + width * width),
      };
      const panel = finishedPanel(corner, begin, diagonal, memory);
      this.#panels.push(panel);
      place(own, panel.triangle, begin, begin);
      const { triangle, inverse } = panel;
      const step = { transposed: true, triangle, inverse };
      if (end < own.end) {
        // Columns of the panel's own block do not lie in a run of memory.
        const into = matrix(width, own.end - end, made.subarray(0, width * (own.end - end)));
        const known = above && { a: above, b: columnsOf(own, begin, end, own.end, rest) };
        await substitute(this.#engine, { ...step, c: rowsOf(end, own.end), known, into });
        place(own, into, begin, end);
      }
      for (const block of this.#blocks.slice(Math.floor(p / PANELS_PER_BLOCK) + 1)) {
        const known = above && { a: above, b: rowRange(block.values, 0, begin) };
        const into = rowRange(block.values, begin, end);
        await substitute(this.#engine, { ...step, c: rowsOf(block.begin, block.end), known, into });
      }
    }
  }

  /** A square of each panel's width. */
  #panelNumbers(): Float64Array {
    return numbersOf(this.#memory, this.size * ASYNC_PANEL_WIDTH).fill(0);
  }

  async solveRows(b: Matrix): Promise<Matrix> {
    const n = this.size;
    if (b.cols !== n) {
      throw new ShapeError(`Cholesky solve: expected rows of ${n} numbers, got [${b.rows}, ${b.cols}]`);
    }
    // Unknowns in rows, so that those that are known stand in one run of memory.
    const given = transpose(b);
    const x = matrix(n, b.rows, numbersOf(this.#memory, n * b.rows));
    for (const [p, { begin, end, triangle, inverse }] of this.#panels.entries()) {
      const own = this.#blocks[Math.floor(p / PANELS_PER_BLOCK)]!;
      const above = begin === 0 ? null : columnsOf(own, begin, begin, end, this.#columns);
      await substitute(this.#engine, {
        ...{ transposed: true, triangle, inverse },
        c: rowRange(given, begin, end),
        known: above && { a: above, b: rowRange(x, 0, begin) },
        into: rowRange(x, begin, end),
      });
    }
    for (const block of this.#blocks.toReversed()) {
      const panels = this.#panels.filter(({ begin }) => begin >= block.begin && begin < block.end);
      for (const { begin, end, triangle, inverse } of panels.toReversed()) {
        const right = blockRows(block, begin, end, end, block.end, this.#columns);
        await substitute(this.#engine, {
          ...{ transposed: false, triangle, inverse },
          c: rowRange(x, begin, end),
          known: right && { a: right, b: rowRange(given, end, block.end) },
          into: rowRange(given, begin, end),
        });
      }
      if (block.begin === 0) break;
      const found = rowRange(given, block.begin, block.end);
      const product = await this.#engine(rowRange(block.values, 0, block.begin), found);
      addScaled(-1, product.data, 0, x.data, 0, product.data.length);
    }
    return transpose(given);
  }

  toLower(): CholeskyFactor {
    const n = this.size;
    const lower = new Float64Array(n * n);
    for (const { begin, values } of this.#blocks) {
      for (let i = 0; i < values.rows; i++) {
        for (let j = Math.max(0, i - begin); j < values.cols; j++) {
          lower[(begin + j) * n + i] = values.data[i * values.cols + j]!;
        }
      }
    }
    return { size: n, lower };
  }
}

/** [0, size) in pieces of a width. */
function ranges(size: number, width: number): { readonly begin: number; readonly end: number }[] {
  return Array.from({ length: Math.ceil(size / width) }, (_, i) => ({
    begin: i * width,
    end: Math.min(size, (i + 1) * width),
  }));
}

/** A[begin:end, begin:end], as its upper triangle says, at the beginning of `memory`. */
function cornerOf(
  rowStart: (i: number) => number,
  data: ArrayLike<number>,
  begin: number,
  end: number,
  memory: Float64Array,
): Matrix {
  const width = end - begin;
  const corner = matrix(width, width, memory.subarray(0, width * width));
  for (let i = 0; i < width; i++) {
    const row = rowStart(begin + i) + begin;
    for (let j = i; j < width; j++) {
      corner.data[i * width + j] = data[row + j]!;
      corner.data[j * width + i] = data[row + j]!;
    }
  }
  return corner;
}

/**
 * The factor of a diagonal block from which all earlier rows are taken.
 * @param memory zeros that it is written to
 */
function finishedPanel(
  corner: Matrix,
  begin: number,
  diagonal: Float64Array,
  memory: Readonly<Record<'triangle' | 'inverse', Float64Array>>,
): Panel {
  const width = corner.rows;
  eliminatePanel(corner, 0, width, diagonal, { first: begin, size: diagonal.length });
  const triangle = matrix(width, width, memory.triangle);
  for (let i = 0; i < width; i++) {
    for (let j = 0; j <= i; j++) triangle.data[j * width + i] = corner.data[i * width + j]!;
  }
  return {
    begin,
    end: begin + width,
    triangle,
    inverse: invertUpper(triangle, matrix(width, width, memory.inverse)),
  };
}

/** U⁻¹ of an upper triangular U, row by row from the last, in place of zeros. */
function invertUpper(upper: Matrix, inverse: Matrix): Matrix {
  const n = upper.rows;
  for (let i = n - 1; i >= 0; i--) {
    const pivot = upper.data[i * n + i]!;
    inverse.data[i * n + i] = 1 / pivot;
    for (let k = i + 1; k < n; k++) {
      const factor = -upper.data[i * n + k]! / pivot;
      addScaled(factor, inverse.data, k * n + k, inverse.data, i * n + k, n - k);
    }
  }
  return inverse;
}

/** Rows [top, bottom) of a matrix; not a copy. */
function rowRange({ cols, data }: Matrix, top: number, bottom: number): Matrix {
  return matrix(bottom - top, cols, data.subarray(top * cols, bottom * cols));
}

/** The first `rows` rows of U's columns [left, right), all of one block, copied to the beginning of `memory`. */
function columnsOf(block: Block, rows: number, left: number, right: number, memory: Float64Array): Matrix {
  return blockRows(block, 0, rows, left, right, memory)!;
}

/** Rows [top, bottom) of U's columns [left, right), all of one block, copied to the beginning of `memory`; null if there are none. */
function blockRows(
  { begin, values: { cols, data } }: Block,
  top: number,
  bottom: number,
  left: number,
  right: number,
  memory: Float64Array,
): Matrix | null {
  const width = right - left;
  if (width === 0) return null;
  const result = matrix(bottom - top, width, memory.subarray(0, (bottom - top) * width));
  for (let i = top, to = 0; i < bottom; i++, to += width) {
    copyRun(data, i * cols + left - begin, result.data, to, width);
  }
  return result;
}

/** Write a matrix to U from row `top` and column `left` on. */
function place({ begin, values }: Block, { rows, cols, data }: Matrix, top: number, left: number): void {
  for (let i = 0; i < rows; i++) {
    copyRun(data, i * cols, values.data, (top + i) * values.cols + left - begin, cols);
  }
}
