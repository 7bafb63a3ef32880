/**
 * Features as networks have them: some directions carry nearly all of the energy, and the smallest that count lie below the
 * rounding of float32. The published ridge of 1e-6 and the minimum-norm change hang on those.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PRESETS } from '../../../src/fusion/options.ts';
import { factoriseInput, factoriseInputWith, solveLayer } from '../../../src/fusion/solvers/least-squares.ts';
import type { LayerProblem } from '../../../src/fusion/solvers/problem.ts';
import { FeatureSums } from '../../../src/fusion/statistics/feature-sums.ts';
import { NO_STATISTICS } from '../../../src/fusion/statistics/statistics.ts';
import {
  openStatistics,
  type StatisticsKey,
  writeStatistics,
} from '../../../src/fusion/statistics/statistics-file.ts';
import { type GramTerm, packedSymmetric, packFloat64 } from '../../../src/linalg/gram.ts';
import { type LowRank, lowRank, toDense } from '../../../src/linalg/low-rank.ts';
import { type Matrix, matrix, stackRows, transpose } from '../../../src/linalg/matrix.ts';
import { multiply, multiplyTransposed } from '../../../src/linalg/products.ts';
import { qr } from '../../../src/linalg/qr.ts';
import { relativeError } from '../../support/close.ts';
import { gaussianSolve } from '../../support/dense-least-squares.ts';
import { gramOf } from '../../support/fusion-problems.ts';
import { randomMatrix } from '../../support/matrices.ts';

const PUBLISHED_RIDGE = PRESETS['mix-of-show'].ridge.spatial;

/**
 * Rows X [N, n] of float32 numbers whose singular values fall from 1 to 2.5e-5: eigenvalues of XᵀX from 1 to 6e-10. Where all
 * concepts read the same directions they are as alike as background pixels are.
 */
function features(seed: number, rows: number, width: number): Matrix {
  const count = Math.min(rows, width);
  const { q: left } = qr(randomMatrix(seed, rows, count));
  const { q: right } = qr(randomMatrix(1, width, count));
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < count; k++) left.data[i * count + k]! *= 10 ** ((-4.6 * k) / (count - 1));
  }
  const x = multiplyTransposed(left, right);
  return matrix(rows, width, Float64Array.from(Float32Array.from(x.data)));
}

function deltas(width: number, count: number): LowRank[] {
  return Array.from({ length: count }, (_, i) =>
    lowRank(randomMatrix(70 + i, 6, 2), randomMatrix(80 + i, 2, width)),
  );
}

function problem(grams: readonly GramTerm[], width: number, ridge: number): LayerProblem {
  const input = { inputName: 'to_q', inputSize: width, grams, preserve: null, ridge };
  return { layerName: 'to_q', outputSize: 6, deltas: deltas(width, grams.length), input };
}

const solved = (layer: LayerProblem): Matrix => toDense(solveLayer(factoriseInput(layer.input), layer));

/** ‖ΔW (Σ G_i + λ I) − Σ ΔW_i G_i‖ / ‖Σ ΔW_i G_i‖ over the rows themselves: 0 at the optimum of the objective. */
function gradientOf(layer: LayerProblem, rows: readonly Matrix[], change: Matrix, lambda: number): number {
  const through = (delta: Matrix, x: Matrix): Matrix => multiply(multiplyTransposed(delta, x), x);
  const left = change.data.map((value) => lambda * value);
  const right = new Float64Array(change.data.length);
  for (const [i, x] of rows.entries()) {
    through(change, x).data.forEach((value, k) => {
      left[k]! += value;
    });
    through(toDense(layer.deltas[i]!), x).data.forEach((value, k) => {
      right[k]! += value;
    });
  }
  return relativeError(left, right);
}

/** The least change that hits Xᵢ ΔWᵢᵀ best, by QR of the rows or of their transpose: nothing is squared. */
function minimumNorm(layer: LayerProblem, rows: readonly Matrix[]): Matrix {
  const x = stackRows(rows[0]!.cols, rows);
  const targets = stackRows(
    6,
    rows.map((own, i) => multiplyTransposed(own, toDense(layer.deltas[i]!))),
  );
  if (x.rows < x.cols) {
    const { q, r } = qr(transpose(x));
    return transpose(multiply(q, gaussianSolve(transpose(r), targets)));
  }
  const { q, r } = qr(x);
  return transpose(gaussianSolve(r, multiply(transpose(q), targets)));
}

describe('few rows of 1280 inputs', () => {
  const rows = [1, 2].map((seed) => features(seed, 40, 1280));
  const terms = rows.map((features) => ({ features }));

  it('are solved with the published ridge', () => {
    const layer = problem(terms, 1280, PUBLISHED_RIDGE);
    const { lambda, side } = factoriseInput(layer.input);
    expect(side).toBe('samples');
    expect(gradientOf(layer, rows, solved(layer), lambda)).toBeLessThan(1e-7);
  });

  it('with ridge 0 are hit by the least change that does', () => {
    const one = problem(terms.slice(0, 1), 1280, 0);
    expect(relativeError(solved(one).data, minimumNorm(one, rows.slice(0, 1)).data)).toBeLessThan(1e-6);
  });

  it('are the same by an engine', async () => {
    const layer = problem(terms, 1280, PUBLISHED_RIDGE);
    const engine = async (a: Matrix, b: Matrix) => multiply(a, b);
    const system = await factoriseInputWith(engine, layer.input);
    expect(relativeError(toDense(solveLayer(system, layer)).data, solved(layer).data)).toBeLessThan(1e-7);
  });
});

describe('many rows, summed step by step and stored', () => {
  const WIDTH = 96;
  const rows = [1, 2].map((seed) => features(seed, 300, WIDTH));
  const folder = mkdtempSync(path.join(tmpdir(), 'edlora-rounding-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  let terms: GramTerm[];

  beforeAll(async () => {
    terms = [];
    for (const [i, x] of rows.entries()) {
      const sums = new FeatureSums(new Map([['to_q', 'to_q']]));
      for (const half of [0, 1]) {
        const part = matrix(150, WIDTH, x.data.slice(half * 150 * WIDTH, (half + 1) * 150 * WIDTH));
        sums.addGram('to_q', gramOf(part).data, 150);
      }
      const file = path.join(folder, `${i}.stats.safetensors`);
      await writeStatistics(file, KEY, { text: NO_STATISTICS, cross: NO_STATISTICS, spatial: sums.finish() });
      const stored = await openStatistics(file);
      terms.push(stored.statistics.spatial.term('to_q'));
      stored.close();
    }
  });

  it('are solved with the published ridge', () => {
    const layer = problem(terms, WIDTH, PUBLISHED_RIDGE);
    const { lambda, side, rank } = factoriseInput(layer.input);
    expect([side, rank]).toEqual(['features', WIDTH]);
    expect(gradientOf(layer, rows, solved(layer), lambda)).toBeLessThan(1e-7);
  });

  it('with ridge 0 give the minimum-norm change', () => {
    const layer = problem(terms, WIDTH, 0);
    expect(relativeError(solved(layer).data, minimumNorm(layer, rows).data)).toBeLessThan(1e-5);
  });

  it('rounded to float32, as earlier versions kept them, are solved in the directions that are left', async () => {
    const rounded = rows.map((x) => packedSymmetric(WIDTH, Float32Array.from(packFloat64(gramOf(x)).packed)));
    const size = (change: Matrix): number => Math.hypot(...change.data);
    for (const ridge of [0, 1e-12, PUBLISHED_RIDGE]) {
      const layer = problem(rounded, WIDTH, ridge);
      const least = size(minimumNorm(layer, rows));
      expect(size(solved(layer)), `${ridge}`).toBeLessThan(1.05 * least);
      const engine = async (a: Matrix, b: Matrix) => multiply(a, b);
      const system = await factoriseInputWith(engine, layer.input, 1);
      expect(toDense(solveLayer(system, layer)).data).toBeAllClose(solved(layer).data, { rtol: 1e-6 });
      // Rounding leaves them indefinite.
      if (ridge < PUBLISHED_RIDGE) expect(system.rank).toBeLessThan(WIDTH);
    }
  });
});

const KEY: StatisticsKey = {
  version: 2,
  base: [],
  networks: '',
  schedule: '',
  subject: { kind: 'base', captions: [], tokens: '' },
  layers: { text: 'none', cross: 'none', spatial: 'attention' },
  options: {
    steps: 1,
    seed: 0,
    promptTemplates: [],
    runs: 1,
    guidanceScale: 1,
    contrast: 1,
    size: null,
  },
};
