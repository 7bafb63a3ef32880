/** The constrained merge and the compression rule against Custom Diffusion's results, in float64. */
import { describe, expect, it } from 'vitest';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { constrainInput, solveConstrained } from '../../src/fusion/solvers/constrained.ts';
import { rankBySpectrumShare } from '../../src/fusion/solvers/recompress.ts';
import { applyToRows, frobeniusNorm, lowRank, rankOf, toDense, truncate } from '../../src/linalg/low-rank.ts';
import { identity, type Matrix, matrix, transpose } from '../../src/linalg/matrix.ts';
import { multiplyTransposed } from '../../src/linalg/products.ts';
import { gaussianSolve } from '../support/dense-least-squares.ts';
import { asMatrix } from '../support/fusion-runs.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';

const FOLDER = 'goldens-fusion/custom-diffusion';

interface MergeCase {
  readonly n_constraints: number;
  readonly objective_frobenius: number;
}
type CompressCase = Readonly<Record<string, { readonly rank: number }>>;

const { cases } = goldenJson<{ cases: Record<string, MergeCase | CompressCase> }>(
  FOLDER,
  'custom_diffusion.json',
);
const file = await openTensorFile(goldenPath(FOLDER, 'custom_diffusion.safetensors'));
const tensor = (name: string) => asMatrix(file, name);
const names = (prefix: string) => Object.keys(cases).filter((name) => name.startsWith(prefix));

function difference(a: Matrix, b: Matrix): Matrix {
  return matrix(
    a.rows,
    a.cols,
    a.data.map((value, i) => value - b.data[i]!),
  );
}

it('there are cases of both kinds', () => {
  expect(names('merge_').length).toBeGreaterThan(0);
  expect(names('compress_').length).toBeGreaterThan(0);
});

describe.each(names('merge_'))('%s', (name) => {
  const base = tensor(`${name}|W0`);
  const constraints = tensor(`${name}|C`);
  const captions = tensor(`${name}|C_reg`);
  // Targets V are given, not the concept's weights: any ΔW with C ΔWᵀ = V − C W₀ᵀ stands for the concept.
  const misfit = difference(tensor(`${name}|V`), multiplyTransposed(constraints, base));
  const gram = multiplyTransposed(constraints, constraints);
  const delta = lowRank(transpose(misfit), gaussianSolve(gram, constraints));
  const input = {
    inputName: name,
    inputSize: base.cols,
    grams: [{ features: constraints }],
    preserve: { gram: { features: captions }, weight: 1 },
    ridge: 0,
  };
  const system = constrainInput(input);
  const fused = solveConstrained(system, { layerName: name, outputSize: base.rows, deltas: [delta], input });

  it('gives the reference’s weights', () => {
    const expected = difference(tensor(`${name}|W`), base);
    // cond(C_reg Gram) is about 2e3.
    expect(toDense(fused).data).toBeAllClose(expected.data, { rtol: 1e-11 });
  });

  it('meets the constraints, at the stated objective', () => {
    expect(system).toMatchObject({ constraints: (cases[name] as MergeCase).n_constraints, repeated: 0 });
    expect(applyToRows(fused, constraints).data).toBeAllClose(misfit.data, { rtol: 1e-12 });
    const objective = Math.hypot(...applyToRows(fused, captions).data);
    expect([objective]).toBeAllClose([(cases[name] as MergeCase).objective_frobenius], { rtol: 1e-10 });
  });
});

describe.each(names('compress_'))('%s', (name) => {
  const share = Number(name.slice('compress_'.length));
  it.each(Object.entries(cases[name] as CompressCase))('%s', (layer, { rank }) => {
    const change = difference(tensor(`compress|${layer}|tuned`), tensor(`compress|${layer}|base`));
    const delta = lowRank(change, identity(change.cols));
    const { singularValues } = truncate(delta, 0);
    const expectedValues = tensor(`compress|${layer}|singular_values`).data;
    expect(singularValues.subarray(0, expectedValues.length)).toBeAllClose(expectedValues, { rtol: 1e-12 });
    expect(rankBySpectrumShare(singularValues, share)).toBe(rank);
    const cut = truncate(delta, rank).delta;
    expect(rankOf(cut)).toBe(rank);
    expect(toDense(cut).data).toBeAllClose(tensor(`${name}|${layer}|delta`).data, { rtol: 1e-11 });
    expect(frobeniusNorm(cut)).toBeLessThan(frobeniusNorm(delta));
  });
});
