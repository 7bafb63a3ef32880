/**
 * The normal equations of an input, on the side where they are smaller: M [n, n] of the features, or where all features are given as
 * N < n rows, X Xᵀ + λ I [N, N] of the samples (least-squares.ts has both written out).
 */
import { type Gram, multiplyByGramSteps } from '../../linalg/gram.ts';
import type { MatmulEngine } from '../../linalg/matmul-engine.ts';
import { type Matrix, matrix, splitRows, stackRows } from '../../linalg/matrix.ts';
import { multiplySteps, multiplyTransposedSteps } from '../../linalg/products.ts';
import { GramProducts, multiplyTransposedWith, multiplyWith } from '../../linalg/products-async.ts';
import type { Pace, Steps } from '../../pace.ts';
import { type AbsoluteWeights, absoluteWeights, normalMatrix, normalMatrixWith } from './normal-matrix.ts';
import type { InputProblem } from './problem.ts';

/** `samples`: all features are rows, N < n of them, and X Xᵀ + λ I [N, N] is factorised; else M [n, n]. */
export type Side = 'features' | 'samples';

/** A symmetric matrix K to factorise, and how its inverse gives the right factors. */
export interface Equations extends AbsoluteWeights {
  readonly side: Side;
  /** K, computed anew. */
  readonly symmetric: () => Steps<Matrix>;
  /** The same, large products by the engine; of a dense one the upper triangle counts. */
  readonly symmetricWith: (engine: MatmulEngine, pace: Pace) => Promise<Gram>;
  /** Rows T of which T K⁻¹ gives the right factors. */
  readonly targets: (downs: Downs) => Steps<Matrix>;
  /** The same for several layers, whose factors meet the features of each concept in one product. */
  readonly targetsWith: (engine: MatmulEngine, layers: readonly Downs[]) => Promise<Matrix[]>;
  /** Right factors [Σ r_i, n] from T K⁻¹. */
  readonly answer: (solved: Matrix) => Steps<Matrix>;
  readonly answerWith: (engine: MatmulEngine, solved: Matrix) => Promise<Matrix>;
}

/** A_i of a layer's concepts; `null` where one has none. */
export type Downs = readonly (Matrix | null)[];

/** @throws {ShapeError | UsageError} see `checkInput` */
export function equationsOf(input: InputProblem): Equations {
  const weights = absoluteWeights(input);
  const rows = rowsOf(input, weights);
  const count = rows?.reduce((total, part) => total + part.rows, 0) ?? Number.POSITIVE_INFINITY;
  return rows !== null && count < input.inputSize
    ? sampleSide(input, weights, rows)
    : featureSide(input, weights);
}

/**
 * X_i of every concept, then √β′ X_reg; `null` if a term is known by its Gram matrix only. With G_reg as a matrix,
 * Woodbury's identity would need the factor of β′ G_reg + λ I [n, n], which saves nothing: the feature side it is.
 */
function rowsOf({ grams, preserve }: InputProblem, { beta }: AbsoluteWeights): Matrix[] | null {
  const rows: Matrix[] = [];
  for (const gram of grams) {
    if (!('features' in gram)) return null;
    rows.push(gram.features);
  }
  if (preserve === null || beta === 0) return rows;
  if (!('features' in preserve.gram)) return null;
  const { rows: count, cols, data } = preserve.gram.features;
  const root = Math.sqrt(beta);
  rows.push(
    matrix(
      count,
      cols,
      data.map((value) => root * value),
    ),
  );
  return rows;
}

function featureSide(input: InputProblem, weights: AbsoluteWeights): Equations {
  return {
    ...weights,
    side: 'features',
    symmetric: () => normalMatrix(input, weights),
    symmetricWith: (engine, pace) => normalMatrixWith(engine, input, weights, pace),
    *targets(downs) {
      const products: Matrix[] = [];
      for (const [i, down] of downs.entries()) {
        if (down !== null) products.push(yield* multiplyByGramSteps(down, input.grams[i]!));
      }
      return stackRows(input.inputSize, products);
    },
    targetsWith: async (engine, layers) => {
      const { inputSize, grams } = input;
      const gramProducts = new GramProducts(engine, input.memory);
      const products = await productsPerConcept(layers, inputSize, grams.length, (downs, i) =>
        gramProducts.multiply(downs, grams[i]!),
      );
      return products.map((parts) =>
        stackRows(
          inputSize,
          parts.filter((part) => part !== null),
        ),
      );
    },
    *answer(solved) {
      yield;
      return solved;
    },
    answerWith: async (_, solved) => solved,
  };
}

function sampleSide(input: InputProblem, weights: AbsoluteWeights, rows: readonly Matrix[]): Equations {
  const x = stackRows(input.inputSize, rows);
  const count = x.rows;
  const ridged = (products: Matrix): Matrix => {
    for (let i = 0; i < count; i++) products.data[i * count + i]! += weights.lambda;
    return products;
  };
  /** Products of a layer's factors and each concept's rows, in the columns of these rows. */
  const inColumns = (products: readonly (Matrix | null)[]): Matrix => {
    const targets = matrix(
      products.reduce((total, block) => total + (block?.rows ?? 0), 0),
      count,
    );
    let row = 0;
    let column = 0;
    for (const [i, block] of products.entries()) {
      for (let r = 0; r < (block?.rows ?? 0); r++, row++) {
        const from = r * block!.cols;
        targets.data.set(block!.data.subarray(from, from + block!.cols), row * count + column);
      }
      column += rows[i]!.rows;
    }
    return targets;
  };
  return {
    ...weights,
    side: 'samples',
    *symmetric() {
      return ridged(yield* multiplyTransposedSteps(x, x));
    },
    symmetricWith: async (engine) => ridged(await multiplyTransposedWith(engine, x, x)),
    *targets(downs) {
      const products: (Matrix | null)[] = [];
      for (const [i, down] of downs.entries()) {
        products.push(down === null ? null : yield* multiplyTransposedSteps(down, rows[i]!));
      }
      return inColumns(products);
    },
    targetsWith: async (engine, layers) => {
      const products = await productsPerConcept(layers, input.inputSize, input.grams.length, (downs, i) =>
        multiplyTransposedWith(engine, downs, rows[i]!),
      );
      return products.map(inColumns);
    },
    answer: (solved) => multiplySteps(solved, x),
    answerWith: (engine, solved) => multiplyWith(engine, solved, x),
  };
}

/**
 * What each concept's features make of the factors of all layers that it trains, as one product.
 * @returns per layer and concept, `null` where a concept does not train the layer
 */
async function productsPerConcept(
  layers: readonly Downs[],
  inputSize: number,
  concepts: number,
  multiply: (downs: Matrix, concept: number) => Promise<Matrix>,
): Promise<(Matrix | null)[][]> {
  const products: (Matrix | null)[][] = layers.map(() => []);
  for (let i = 0; i < concepts; i++) {
    const trained = layers.map((downs) => downs[i] ?? matrix(0, inputSize));
    const product = await multiply(stackRows(inputSize, trained), i);
    const parts = splitRows(
      product,
      trained.map(({ rows }) => rows),
    );
    layers.forEach((downs, l) => {
      products[l]![i] = (downs[i] ?? null) === null ? null : parts[l]!;
    });
  }
  return products;
}
