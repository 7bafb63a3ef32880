/**
 * What fusion knows of features: one sum per distinct input of the layers of a stage. Gram matrices where rows are many,
 * the rows themselves where they are few. Sums grow while networks run; no feature outlives its step.
 */
import { ShapeError } from '../../errors.ts';
import {
  type FeatureRows,
  type Gram,
  GramAccumulator,
  type GramTerm,
  gramSize,
  packedLength,
  packedSymmetric,
  toDenseGram,
} from '../../linalg/gram.ts';
import { type Matrix, matrix } from '../../linalg/matrix.ts';
import type { Stage } from '../stage.ts';

/** Features of the layers of one stage, of one concept or of the base. */
export interface StageStatistics {
  /** Layer → its input. Layers that read the same input (q, k, v of one attention) share one term. */
  readonly inputOf: ReadonlyMap<string, string>;
  /** N: feature rows behind each input. */
  readonly rows: ReadonlyMap<string, number>;
  /**
   * G [n, n] of an input, or the rows X [N, n] behind it. Statistics that lie in a file are read anew at each call.
   * @throws {FormatError} if the file has changed or vanished
   */
  term(input: string): GramTerm;
}

/** Features of a concept, or of the base, in all stages. */
export type Statistics = Readonly<Record<Stage, StageStatistics>>;

export const NO_STATISTICS: StageStatistics = {
  inputOf: new Map(),
  rows: new Map(),
  term: (input) => {
    throw new ShapeError(`${input}: no statistics were collected for it`);
  },
};

/** Statistics in memory, from terms by input. */
export function statisticsOf(
  inputOf: ReadonlyMap<string, string>,
  rows: ReadonlyMap<string, number>,
  terms: ReadonlyMap<string, GramTerm>,
): StageStatistics {
  return {
    inputOf,
    rows,
    term: (input) => {
      const term = terms.get(input);
      return term ?? NO_STATISTICS.term(input);
    },
  };
}

/** Exact state of a running sum: its upper triangle row by row in float64, and the rows behind it. */
export interface SumState {
  readonly packed: Float64Array;
  readonly rows: number;
}

/** Running Gram matrices per distinct input, in float64. */
export class GramSums {
  readonly #inputOf: ReadonlyMap<string, string>;
  readonly #sums = new Map<string, GramAccumulator>();

  /** @param inputOf layer → the input it reads */
  constructor(inputOf: ReadonlyMap<string, string>) {
    this.#inputOf = inputOf;
  }

  /** Distinct inputs, in the order of their first layers. */
  get inputs(): string[] {
    return [...new Set(this.#inputOf.values())];
  }

  /** Add a Gram matrix [n, n] of `rows` feature rows, computed elsewhere. */
  add(input: string, gram: Float32Array | Float64Array, rows: number): void {
    this.#sumOf(input, Math.round(Math.sqrt(gram.length))).addGram(gram, rows);
  }

  /** The sums as they stand, for a run that may be cut short. */
  state(): Map<string, SumState> {
    return new Map(
      [...this.#sums].map(([input, sum]) => [
        input,
        { packed: sum.toPackedFloat64().packed, rows: sum.rows },
      ]),
    );
  }

  /** Go on from a state: the same bytes come out as if the run had never stopped. */
  restore(state: ReadonlyMap<string, SumState>): void {
    for (const [input, { packed, rows }] of state) {
      const size = (Math.sqrt(1 + 8 * packed.length) - 1) / 2;
      this.#sums.delete(input);
      this.add(input, toDenseGram(packedSymmetric(size, packed)).data, rows);
    }
  }

  /** Rounded to float32, packed. */
  finish(): StageStatistics {
    const terms = new Map<string, Gram>();
    const rows = new Map<string, number>();
    for (const [input, sum] of this.#sums) {
      terms.set(input, sum.toPackedFloat32());
      rows.set(input, sum.rows);
    }
    return statisticsOf(this.#inputOf, rows, terms);
  }

  #sumOf(input: string, size: number): GramAccumulator {
    const sum = this.#sums.get(input) ?? new GramAccumulator(size);
    this.#sums.set(input, sum);
    return sum;
  }
}

/** Rows X [N, n] per input, kept as they are: few against n inputs, they are smaller and more exact than XᵀX. */
export class RowSums {
  readonly #inputOf: ReadonlyMap<string, string>;
  readonly #width: number;
  readonly #rows = new Map<string, Float32Array[]>();

  constructor(inputOf: ReadonlyMap<string, string>, width: number) {
    this.#inputOf = inputOf;
    this.#width = width;
  }

  /** Copies the row [n]. */
  add(input: string, row: Float32Array): void {
    const rows = this.#rows.get(input) ?? [];
    rows.push(row.slice());
    this.#rows.set(input, rows);
  }

  finish(): StageStatistics {
    const terms = new Map<string, FeatureRows>();
    const counts = new Map<string, number>();
    for (const [input, rows] of this.#rows) {
      const features = matrix(rows.length, this.#width);
      rows.forEach((row, r) => {
        features.data.set(row, r * this.#width);
      });
      terms.set(input, { features });
      counts.set(input, rows.length);
    }
    return statisticsOf(this.#inputOf, counts, terms);
  }
}

/**
 * A term from stored numbers.
 * @param values rows [N, n] if `rows` is given, else the upper triangle of G, row by row
 * @throws {ShapeError} if they are not as many as that
 */
export function termFrom(values: Float32Array, size: number, rows: number | null): GramTerm {
  if (rows === null) return packedSymmetric(size, values);
  if (values.length !== rows * size) {
    throw new ShapeError(`rows: expected [${rows}, ${size}], got ${values.length} numbers`);
  }
  return { features: matrix(rows, size, Float64Array.from(values)) };
}

/** The numbers of a term as it is stored: rows [N, n], or the upper triangle [n (n + 1) / 2]; float32. */
export function storedForm(term: GramTerm): {
  readonly shape: readonly number[];
  readonly values: Float32Array;
} {
  if ('features' in term) {
    const { rows, cols, data }: Matrix = term.features;
    return { shape: [rows, cols], values: Float32Array.from(data) };
  }
  if (!('packed' in term)) {
    const sum = new GramAccumulator(term.rows);
    sum.addGram(term.data, 0);
    return storedForm(sum.toPackedFloat32());
  }
  return { shape: [packedLength(gramSize(term))], values: Float32Array.from(term.packed) };
}
