import { describe, expect, it } from 'vitest';
import { largestMagnitudes } from '../../src/merging/methods/selection.ts';
import { inOneGo } from '../../src/pace.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

const generator = new TorchGenerator(2);
const lists: [string, Float64Array][] = [
  ['normal numbers', generator.randnFloat64(1000)],
  ['many equal ones', generator.randnFloat64(500).map((value) => Math.round(value))],
  ['all magnitudes', generator.randnFloat64(300).map((value, i) => value * 2 ** (7 * (i - 150)))],
  ['float32 numbers', Float64Array.from(generator.randn(400))],
  ['zeros of both signs', Float64Array.of(0, -0, 0, -0)],
  ['no numbers', Float64Array.of(1, Number.NaN, Number.NEGATIVE_INFINITY, 3, -Number.NaN)],
];

describe('the k-th largest magnitude is that of the sorted list', () => {
  it.each(lists)('%s', (_, values) => {
    const sorted = values.map(Math.abs).sort();
    for (let count = 1; count <= values.length; count += Math.ceil(values.length / 37)) {
      expect(inOneGo(largestMagnitudes(values, count))).toBe(sorted[values.length - count]);
    }
  });
});
