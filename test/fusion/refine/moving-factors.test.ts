/** Factors that steps move: by how much, how far back, and which of a model's stay. */
import { expect, it } from 'vitest';
import { NumericalError } from '../../../src/errors.ts';
import { MovingFactors } from '../../../src/fusion/refine/moving-factors.ts';
import { type LowRank, lowRank } from '../../../src/linalg/low-rank.ts';
import { matrix } from '../../../src/linalg/matrix.ts';
import type { Layer } from '../../../src/models/families/layer-table.ts';
import { layerOf } from '../../../src/models/families/layer-table.ts';

const table = new Map<string, Layer>(
  ['a', 'b'].map((name) => [name, layerOf('unet', name, [3, 2], 'self-attention')]),
);
const filled = (value: number): LowRank =>
  lowRank(matrix(3, 1, new Float64Array(3).fill(value)), matrix(1, 2, new Float64Array(2).fill(-value)));
const ones = ({ trained, feeds }: MovingFactors): Map<string, Float32Array> =>
  new Map(trained.map((name) => [name, new Float32Array(feeds[name]!.data.length).fill(1)]));

it.each([0.5, 0.01])('move by a share of their own size: %d', (size) => {
  const factors = new MovingFactors(new Map([['a', filled(size)]]), new Map([['b', filled(7)]]), table);
  factors.step(ones(factors), 0.1);
  const { up, down } = factors.layers().get('a')!;
  // The first step of Adam moves every number by its rate, whatever the gradient.
  expect([...up.data]).toEqual([...Array<number>(3)].map(() => expect.closeTo(0.9 * size, 5)));
  expect([...down.data]).toEqual([...Array<number>(2)].map(() => expect.closeTo(-1.1 * size, 5)));
  expect([...factors.layers().keys()]).toEqual(['a']);
  expect(factors.model().get('b')).toEqual(filled(7));
});

it('go back towards where they began, by the share that is left', () => {
  const factors = new MovingFactors(new Map([['a', filled(1)]]), new Map(), table);
  factors.step(ones(factors), 0.2);
  factors.withdraw(0.75);
  expect(factors.layers().get('a')!.up.data[0]).toBeCloseTo(1 - 0.75 * 0.2, 5);
});

it('name the layer that is not finite', () => {
  const factors = new MovingFactors(
    new Map([
      ['a', filled(1)],
      ['b', filled(1)],
    ]),
    new Map(),
    table,
  );
  const gradients = ones(factors);
  gradients.get(factors.trained.at(-1)!)!.fill(Number.NaN);
  factors.step(gradients, 0.1);
  expect(() => factors.layers()).toThrow(NumericalError);
  expect(() => factors.layers()).toThrow(/layer: b|b\b/);
});
