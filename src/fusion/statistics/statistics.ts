/**
 * What fusion knows of features: one sum per distinct input of the layers of a stage. Gram matrices where rows are many,
 * the rows themselves where they are few.
 */
import { ShapeError } from '../../errors.ts';
import { type GramTerm, packedSymmetric, packFloat64 } from '../../linalg/gram.ts';
import { type Matrix, matrix } from '../../linalg/matrix.ts';
import type { ReusedMemory } from '../../linalg/reused-memory.ts';
import type { Stage } from '../stage.ts';

/** Features of the layers of one stage, of one concept or of the base. */
export interface StageStatistics {
  /** Layer → its input. Layers that read the same input (q, k, v of one attention) share one term. */
  readonly inputOf: ReadonlyMap<string, string>;
  /** N: feature rows behind each input. */
  readonly rows: ReadonlyMap<string, number>;
  /**
   * G [n, n] of an input, or the rows X [N, n] behind it. Statistics that lie in a file are read anew at each call.
   * @param memory that a Gram matrix may be read to
   * @throws {FormatError} if the file has changed or vanished
   */
  term(input: string, memory?: ReusedMemory): GramTerm;
  /** The same, read while the caller goes on. */
  termLater(input: string, memory?: ReusedMemory): Promise<GramTerm>;
}

/** Features of a concept, or of the base, in all stages. */
export type Statistics = Readonly<Record<Stage, StageStatistics>>;

export const NO_STATISTICS: StageStatistics = {
  inputOf: new Map(),
  rows: new Map(),
  term: (input) => {
    throw new ShapeError(`${input}: no statistics were collected for it`);
  },
  termLater: async (input) => NO_STATISTICS.term(input),
};

/** Statistics in memory, from terms by input. */
export function statisticsOf(
  inputOf: ReadonlyMap<string, string>,
  rows: ReadonlyMap<string, number>,
  terms: ReadonlyMap<string, GramTerm>,
): StageStatistics {
  const term = (input: string): GramTerm => terms.get(input) ?? NO_STATISTICS.term(input);
  return { inputOf, rows, term, termLater: async (input) => term(input) };
}

/**
 * A term from stored numbers: rows [N, n] if `rows` is given, else the upper triangle of G, row by row.
 * @throws {ShapeError} if they are not as many as that
 */
export function termFrom(values: Float32Array | Float64Array, size: number, rows: number | null): GramTerm {
  if (rows === null) return packedSymmetric(size, values);
  if (values.length !== rows * size) {
    throw new ShapeError(`rows: expected [${rows}, ${size}], got ${values.length} numbers`);
  }
  return { features: matrix(rows, size, Float64Array.from(values)) };
}

/**
 * The numbers of a term as it is stored: rows [N, n] in float32, as networks gave them; or the upper triangle
 * [n (n + 1) / 2] in its own precision, which for a dense matrix is float64.
 */
export function storedForm(term: GramTerm): {
  readonly shape: readonly number[];
  readonly values: Float32Array | Float64Array;
} {
  if ('features' in term) {
    const { rows, cols, data }: Matrix = term.features;
    return { shape: [rows, cols], values: Float32Array.from(data) };
  }
  const { packed } = 'packed' in term ? term : packFloat64(term);
  return { shape: [packed.length], values: packed };
}
