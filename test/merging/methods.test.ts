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
