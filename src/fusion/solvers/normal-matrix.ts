/** The matrix of the objective's quadratic part, M = Σ_j G_j + β′ G_reg + λ I, and its weights in absolute terms. */
import { NumericalError } from '../../errors.ts';
import {
  addGramSteps,
  type Gram,
  type GramTerm,
  gramTrace,
  type PackedSymmetric,
  packedLength,
  packedStart,
  packedSymmetric,
  toDenseGram,
} from '../../linalg/gram.ts';
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { type Matrix, matrix } from '../../linalg/matrix.ts';
import { addScaled } from '../../linalg/products.ts';
import { gramOfRowsWith } from '../../linalg/products-async.ts';
import { numbersOf } from '../../linalg/reused-memory.ts';
import type { Pace, Steps } from '../../pace.ts';
import { checkInput, type InputProblem } from './problem.ts';

/** Numbers of the sum at a time: they stay in the caches from one term to the next. */
const NUMBERS_PER_STEP = 2 ** 16;

/** λ and β′ of an input, in the units of its Gram matrices. */
export interface AbsoluteWeights {
  /** λ = ridge · tr(Σ G_j) / n. */
  readonly lambda: number;
  /** β′ = weight · tr(Σ G_j) / tr(G_reg); 0 without preservation. */
  readonly beta: number;
}

/**
 * Check an input and make its relative weights absolute.
 *
 * @throws {ShapeError|UsageError} see `checkInput`
 * @throws {NumericalError} naming the input, if the features are all zero or not finite
 */
export function absoluteWeights(input: InputProblem): AbsoluteWeights {
  checkInput(input);
  const { inputName, inputSize, grams, preserve, ridge } = input;
  const energy = grams.reduce((total, gram) => total + gramTrace(gram), 0);
  if (!(energy > 0) || !Number.isFinite(energy)) {
    throw new NumericalError(
      `sum of the concepts' Gram matrices: expected a positive finite trace, got ${energy}; ` +
        'are the features all zero or not finite?',
      { layer: inputName, value: energy },
    );
  }
  const lambda = (ridge * energy) / inputSize;
  if (preserve === null || preserve.weight === 0) return { lambda, beta: 0 };
  const preserved = gramTrace(preserve.gram);
  const beta = (preserve.weight * energy) / preserved;
  if (!(preserved > 0) || !Number.isFinite(beta)) {
    throw new NumericalError(
      `preservation Gram matrix: expected a positive finite trace, got ${preserved}; set its weight to 0 to do without`,
      { layer: inputName, value: preserved },
    );
  }
  return { lambda, beta };
}

/** M [n, n], dense. */
export function* normalMatrix(input: InputProblem, weights: AbsoluteWeights): Steps<Matrix> {
  const normal = matrix(input.inputSize, input.inputSize);
  for (const [gram, weight] of summands(input, weights)) yield* addGramSteps(normal, gram, weight);
  return ridged(normal, weights);
}

/** The same, packed, with the Gram matrices of rows computed by `engine` where they are large. */
export async function normalMatrixWith(
  engine: MatmulEngine,
  input: InputProblem,
  weights: AbsoluteWeights,
  pace: Pace,
): Promise<PackedSymmetric> {
  const { inputSize: n } = input;
  const terms: (readonly [Gram, number])[] = [];
  for (const [gram, weight] of summands(input, weights)) {
    const summed = 'features' in gram ? await gramOfRowsWith(engine, gram) : gram;
    terms.push(['features' in summed ? toDenseGram(summed) : summed, weight]);
  }
  const packed = numbersOf(input.memory, packedLength(n));
  await pace.run(sumPacked(packed, n, terms));
  for (let i = 0; i < n; i++) packed[packedStart(n, i)]! += weights.lambda;
  return packedSymmetric(n, packed);
}

type Weighted = readonly [packed: Float64Array, weight: number];

/** target = Σ weight · G, some rows at a time, so that the target is written to memory once. */
function* sumPacked(
  target: Float64Array,
  n: number,
  terms: readonly (readonly [Gram, number])[],
): Steps<void> {
  const rows = Math.max(1, Math.floor(NUMBERS_PER_STEP / n));
  for (let top = 0; top < n; top += rows) {
    const bottom = Math.min(n, top + rows);
    const [begin, end] = [packedStart(n, top), packedStart(n, bottom)];
    target.fill(0, begin, end);
    let four: Weighted[] = [];
    for (const [gram, weight] of terms) {
      if ('packed' in gram && gram.packed instanceof Float64Array) {
        four.push([gram.packed, weight]);
        if (four.length < 4) continue;
        addFour(four, target, begin, end);
        four = [];
      } else if ('packed' in gram) {
        for (let i = begin; i < end; i++) target[i]! += weight * gram.packed[i]!;
      } else {
        for (let i = top; i < bottom; i++) {
          addScaled(weight, gram.data, i * n + i, target, packedStart(n, i), n - i);
        }
      }
    }
    if (four.length === 3) addFour([...four, [four[0]![0], 0]], target, begin, end);
    else for (const [packed, weight] of four) addScaled(weight, packed, begin, target, begin, end - begin);
    yield;
  }
}

/** Four at a time: what is read and written of the target is most of the work. */
function addFour(terms: readonly Weighted[], target: Float64Array, begin: number, end: number): void {
  const [[a, p], [b, q], [c, r], [d, s]] = terms as [Weighted, Weighted, Weighted, Weighted];
  for (let i = begin; i < end; i++) target[i]! += p * a[i]! + q * b[i]! + (r * c[i]! + s * d[i]!);
}

function summands(
  { grams, preserve }: InputProblem,
  { beta }: AbsoluteWeights,
): (readonly [gram: GramTerm, weight: number])[] {
  const concepts = grams.map((gram) => [gram, 1] as const);
  return preserve !== null && beta > 0 ? [...concepts, [preserve.gram, beta]] : concepts;
}

/** M ← M + λ I, in place. */
function ridged(normal: Matrix, { lambda }: AbsoluteWeights): Matrix {
  const n = normal.rows;
  for (let i = 0; i < n; i++) normal.data[i * n + i]! += lambda;
  return normal;
}
