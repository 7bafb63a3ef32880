/**
 * Features of inputs while networks run: what comes in step by step, and nothing of it is rounded. Gram matrices are summed
 * in float64; rows are kept as they are where they stay fewer than inputs, which is smaller, and exact.
 */

import { ShapeError } from '../../errors.ts';
import { GramAccumulator, type GramTerm, packedSymmetric, toDenseGram } from '../../linalg/gram.ts';
import { matrix } from '../../linalg/matrix.ts';
import { type StageStatistics, statisticsOf } from './statistics.ts';

/** Whether N rows of n inputs are kept as they are. */
export const areFewRows = (rows: number, width: number): boolean => rows < width;

/** Exact state of one input: the upper triangle of its Gram matrix row by row, or its rows [N, n]; and N. */
export type SumState = { readonly rows: number } & (
  | { readonly packed: Float64Array }
  | { readonly features: Float32Array }
);

/** Features per distinct input. */
export class FeatureSums {
  readonly #inputOf: ReadonlyMap<string, string>;
  readonly #sums = new Map<string, GramAccumulator | KeptRows>();

  /** @param inputOf layer → the input it reads */
  constructor(inputOf: ReadonlyMap<string, string>) {
    this.#inputOf = inputOf;
  }

  /** Add a Gram matrix [n, n] of `rows` feature rows, computed elsewhere. @throws {ShapeError} if rows are kept of this input */
  addGram(input: string, gram: Float64Array, rows: number): void {
    this.#sumOf(input, Math.round(Math.sqrt(gram.length))).addGram(gram, rows);
  }

  /** The same in strips (`gramStrips`), as networks compute it. @throws as `addGram` */
  addStrips(input: string, values: Float64Array, width: number, rows: number): void {
    this.#sumOf(input, width).addStrips(values, rows);
  }

  #sumOf(input: string, size: number): GramAccumulator {
    const sum = this.#sums.get(input) ?? new GramAccumulator(size);
    if (!(sum instanceof GramAccumulator)) throw mixed(input);
    this.#sums.set(input, sum);
    return sum;
  }

  /** Keep rows X [N, n]; copied. @throws {ShapeError} if Gram matrices are summed of this input */
  addRows(input: string, features: Float32Array, width: number): void {
    const sum = this.#sums.get(input) ?? new KeptRows(width);
    if (!(sum instanceof KeptRows)) throw mixed(input);
    sum.add(features);
    this.#sums.set(input, sum);
  }

  /** What is there so far, for a run that may be cut short. */
  state(): Map<string, SumState> {
    return new Map(
      [...this.#sums].map(([input, sum]): [string, SumState] => [
        input,
        sum instanceof KeptRows
          ? { features: sum.joined(), rows: sum.rows }
          : { packed: sum.toPacked().packed, rows: sum.rows },
      ]),
    );
  }

  /** Go on from a state: the same bytes come out as if the run had never stopped. */
  restore(state: ReadonlyMap<string, SumState>): void {
    for (const [input, held] of state) {
      this.#sums.delete(input);
      if ('features' in held) {
        this.addRows(input, held.features, held.features.length / held.rows);
      } else {
        const size = (Math.sqrt(1 + 8 * held.packed.length) - 1) / 2;
        this.addGram(input, toDenseGram(packedSymmetric(size, held.packed)).data, held.rows);
      }
    }
  }

  finish(): StageStatistics {
    const terms = new Map<string, GramTerm>();
    const rows = new Map<string, number>();
    for (const [input, sum] of this.#sums) {
      terms.set(input, sum instanceof KeptRows ? sum.term() : sum.toPacked());
      rows.set(input, sum.rows);
    }
    return statisticsOf(this.#inputOf, rows, terms);
  }
}

/** Rows of one input, one after the other. */
class KeptRows {
  readonly #width: number;
  readonly #parts: Float32Array[] = [];

  constructor(width: number) {
    this.#width = width;
  }

  get rows(): number {
    return this.#parts.reduce((sum, part) => sum + part.length, 0) / this.#width;
  }

  add(features: Float32Array): void {
    if (features.length % this.#width !== 0) {
      throw new ShapeError(`features: expected rows of ${this.#width} numbers, got ${features.length}`);
    }
    this.#parts.push(features.slice());
  }

  /** [N, n] */
  joined(): Float32Array {
    const all = new Float32Array(this.rows * this.#width);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  term(): GramTerm {
    return { features: matrix(this.rows, this.#width, Float64Array.from(this.joined())) };
  }
}

function mixed(input: string): ShapeError {
  return new ShapeError(`internal: ${input}: Gram matrices and rows of one input`);
}
