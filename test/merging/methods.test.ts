/** Methods and factorisations that no golden covers. */
import { describe, expect, it } from 'vitest';
import { wholeDelta } from '../../src/adapters/delta.ts';
import { toDense, truncate } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { multiply } from '../../src/linalg/products.ts';
import { blockFactor, parseBlockWeights } from '../../src/merging/block-weights.ts';
import { layerContext } from '../../src/merging/merge.ts';
import { MERGE_DEFAULTS, type MergeTerm } from '../../src/merging/method.ts';
import { mergeMethods } from '../../src/merging/methods/index.ts';
import { truncateDense } from '../../src/merging/range-finder.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { relativeError } from '../support/close.ts';

const generator = new TorchGenerator(5);
const random = (rows: number, cols: number) => matrix(rows, cols, generator.randnFloat64(rows * cols));
const term = (m: number, n: number, rank: number, strength: number): MergeTerm => ({
  up: random(m, rank),
  down: random(rank, n),
  scale: 0.5,
  strength,
});
const context = (settings: Partial<typeof MERGE_DEFAULTS> = {}) =>
  layerContext('layer', 0, { ...MERGE_DEFAULTS, ...settings });
const dense = ({ up, down, scale, strength }: MergeTerm): Float64Array =>
  toDense({ up, down }).data.map((value) => value * scale * strength);

describe('knots', () => {
  it('returns a single adapter as it is when nothing is pruned', async () => {
    const only = term(20, 16, 3, -0.7);
    const merged = await mergeMethods.knots.merge([only], context({ density: 1 }));
    expect(merged.up.cols).toBe(3);
    expect(relativeError(toDense(merged).data, dense(only))).toBeLessThan(1e-10);
  });

  it('averages equal adapters, and keeps Σ r', async () => {
    const one = term(20, 16, 3, 1);
    const both = await mergeMethods.knots.merge([one, one], context({ density: 1 }));
    // Twice the same: the common basis has no more directions than one of them.
    expect(both.up.cols).toBe(3);
    expect(relativeError(toDense(both).data, dense(one))).toBeLessThan(1e-10);
    const other = term(20, 16, 4, 1);
    const mixed = await mergeMethods.knots.merge([one, other], context({ density: 0.5 }));
    expect(mixed.up.cols).toBe(7);
    const cut = await mergeMethods.knots.merge([one, other], context({ density: 0.5, rank: 2 }));
    const best = truncate(mixed, 2).delta;
    expect(relativeError(toDense(cut).data, toDense(best).data)).toBeLessThan(1e-10);
  });

  it('does not depend on how a change is split into factors', async () => {
    const [a, b] = [term(12, 10, 2, 0.8), term(12, 10, 3, -0.4)];
    const mix = random(2, 2);
    const inverse = matrix(2, 2, Float64Array.of(mix.data[3]!, -mix.data[1]!, -mix.data[2]!, mix.data[0]!));
    const determinant = mix.data[0]! * mix.data[3]! - mix.data[1]! * mix.data[2]!;
    const same = {
      ...a,
      up: multiply(a.up, mix),
      down: multiply(inverse, a.down),
      scale: a.scale / determinant,
    };
    const first = await mergeMethods.knots.merge([a, b], context());
    const second = await mergeMethods.knots.merge([same, b], context());
    expect(relativeError(toDense(second).data, toDense(first).data)).toBeLessThan(1e-8);
  });
});

describe('null-space', () => {
  const apply = (change: Float64Array, x: Float64Array): number[] =>
    Array.from({ length: change.length / x.length }, (_, i) =>
      x.reduce((sum, value, j) => sum + change[i * x.length + j]! * value, 0),
    );

  it('leaves the first alone, on every input that it acts on, and the others where no earlier one acts', async () => {
    const terms = [term(12, 10, 2, 0.8), term(12, 10, 3, -0.4), term(12, 10, 1, 1.5)];
    const merged = toDense(await mergeMethods['null-space'].merge(terms, context())).data;
    const [first, second] = terms.map(({ down }) => down.data.slice(0, 10)) as [Float64Array, Float64Array];
    expect(apply(merged, first)).toBeAllClose(apply(dense(terms[0]!), first), { rtol: 1e-9, atol: 1e-9 });
    // An input of the second that is none of the first.
    const { up, down } = terms[0]!;
    const others = toDense(
      await mergeMethods['null-space'].merge(
        [{ ...terms[0]!, strength: 1e-9 }, ...terms.slice(1)],
        context(),
      ),
    );
    expect(apply(others.data, down.data.slice(10)).every((value) => Math.abs(value) < 1e-7)).toBe(true);
    expect(
      Math.max(
        ...apply(merged, second).map((value, i) => Math.abs(value - apply(dense(terms[0]!), second)[i]!)),
      ),
    ).toBeGreaterThan(0.1);
    expect(up.rows).toBe(12);
  });

  it('is the sum where changes act on different inputs, at any rank that is asked for', async () => {
    const [a, b] = [term(12, 10, 2, 0.8), term(12, 10, 3, -0.4)];
    for (let row = 0; row < 2; row++) a.down.data.fill(0, row * 10 + 5, row * 10 + 10);
    for (let row = 0; row < 3; row++) b.down.data.fill(0, row * 10, row * 10 + 5);
    const sum = dense(a).map((value, i) => value + dense(b)[i]!);
    const merged = await mergeMethods['null-space'].merge([a, b], context());
    expect(relativeError(toDense(merged).data, sum)).toBeLessThan(1e-10);
    const cut = await mergeMethods['null-space'].merge([a, b], context({ rank: 2 }));
    expect(relativeError(toDense(cut).data, toDense(truncate(merged, 2).delta).data)).toBeLessThan(1e-10);
  });

  it('has nothing left of the same change again, and does not see how one is split into factors', async () => {
    const a = term(12, 10, 2, 0.8);
    const again = await mergeMethods['null-space'].merge([a, a], context());
    expect(relativeError(toDense(again).data, dense(a))).toBeLessThan(1e-10);
    const b = term(12, 10, 3, -0.4);
    // A further factor whose up column is zero changes nothing, whatever its down row says.
    const wider: MergeTerm = {
      ...a,
      up: matrix(
        12,
        3,
        Float64Array.from({ length: 36 }, (_, i) =>
          i % 3 === 2 ? 0 : a.up.data[Math.floor(i / 3) * 2 + (i % 3)]!,
        ),
      ),
      down: matrix(3, 10, Float64Array.of(...a.down.data, ...b.down.data.slice(0, 10))),
    };
    const [narrow, wide] = [
      await mergeMethods['null-space'].merge([a, b], context()),
      await mergeMethods['null-space'].merge([wider, b], context()),
    ];
    expect(relativeError(toDense(wide).data, toDense(narrow).data)).toBeLessThan(1e-10);
  });
});

describe('the randomised range finder', () => {
  // Wider than what is factorised exactly.
  const [m, n] = [150, 210];

  it('finds a change of low rank exactly', async () => {
    const product = multiply(random(m, 6), random(6, n));
    const { delta, relativeError: stated } = await truncateDense(product, 6, context());
    expect(relativeError(toDense(delta).data, product.data)).toBeLessThan(1e-10);
    expect(stated).toBeLessThan(1e-6);
  });

  it('comes within a percent of the best, and states its own error', async () => {
    const decaying = random(m, 60);
    for (let i = 0; i < m; i++) for (let j = 0; j < 60; j++) decaying.data[i * 60 + j]! /= 1 + j;
    const product = multiply(decaying, random(60, n));
    const { delta, relativeError: stated } = await truncateDense(product, 12, context());
    const own = relativeError(toDense(delta).data, product.data);
    expect(own).toBeCloseTo(stated, 8);
    expect(own).toBeLessThan(1.01 * truncate(wholeDelta(product), 12).relativeError);
  });

  it('gives the same result for the same seed and layer', async () => {
    const product = random(m, n);
    const [one, two] = [
      await truncateDense(product, 4, context()),
      await truncateDense(product, 4, context()),
    ];
    expect(two.delta.up.data).toEqual(one.delta.up.data);
  });
});

describe('block weights', () => {
  it('weigh what they name and nothing else', () => {
    const weights = parseBlockWeights('0.5,1,1,1,1,1,1,0.25,1,1,1,1,1,1,1,1,-2', 'sd1');
    const of = (component: 'unet' | 'text_encoder', layerName: string) =>
      blockFactor(weights, 'sd1', { component, layerName });
    expect(of('text_encoder', 'text_model.encoder.layers.3.mlp.fc1')).toBe(0.5);
    expect(of('unet', 'mid_block.attentions.0.proj_in')).toBe(0.25);
    expect(of('unet', 'up_blocks.3.attentions.2.proj_in')).toBe(-2);
    expect(of('unet', 'down_blocks.0.downsamplers.0.conv')).toBe(1);
    expect(of('unet', 'conv_in')).toBe(1);
  });

  // As sd-webui-lora-block-weight ships them, lbwpresets.txt.
  it.each([
    ['NONE', '0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0'],
    ['ALL', '1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1'],
    ['INS', '1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0'],
    ['IND', '1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0'],
    ['INALL', '1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0'],
    ['MIDD', '1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0'],
    ['OUTD', '1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0'],
    ['outs', '1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1'],
    ['OUTALL', '1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1'],
    ['ALL0.5', '0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5'],
  ])('%s stands for %s', (name, numbers) => {
    expect(parseBlockWeights(name, 'sd1')).toEqual(parseBlockWeights(numbers, 'sd1'));
  });

  it('reads SDXL’s counts', () => {
    expect(parseBlockWeights(new Array(12).fill(0).join(), 'sdxl').get('OUT05')).toBe(0);
    expect(() => parseBlockWeights('OUTS', 'sdxl')).toThrow('presets are for the 17 blocks');
    expect(() => parseBlockWeights('1,,1', 'sd1')).toThrow('expected a number at place 2');
  });
});
