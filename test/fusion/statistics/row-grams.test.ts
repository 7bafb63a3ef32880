/** Gram matrices of returned rows: what the network itself would have returned, and when rows are smaller. */
import { afterAll, describe, expect, it } from 'vitest';
import { areSmallerAsRows, RowGrams } from '../../../src/fusion/statistics/row-grams.ts';
import { GramAccumulator, gramStrips } from '../../../src/linalg/gram.ts';
import { executionContext } from '../../../src/runtime/execution-context.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';

const grams = new RowGrams(executionContext());
afterAll(() => grams.dispose());

it.each([
  [5, 3],
  [7, 260],
  [300, 260],
])('of %d rows of %d numbers are their strips', async (rows, width) => {
  const x = new TorchGenerator(rows).randn(rows * width);
  const [found, wanted] = [new GramAccumulator(width), new GramAccumulator(width)];
  found.addStrips(await grams.strips(x, width), rows);
  wanted.addRows(x);
  expect(found.toPacked().packed).toBeAllClose(wanted.toPacked().packed, { rtol: 1e-12, atol: 1e-11 });
});

it('are made to the end where the run has been ended: half of a step’s sums would be kept else', async () => {
  const ended = new RowGrams(executionContext({ signal: AbortSignal.abort(new Error('enough')) }));
  const x = new TorchGenerator(1).randn(15);
  expect(await ended.strips(x, 3)).toEqual(await grams.strips(x, 3));
  await ended.dispose();
});

describe('rows', () => {
  it('are smaller than strips of twice the width', () => {
    for (const width of [64, 1280, 5120]) {
      const strips = gramStrips(width).reduce(
        (sum, { start, end }) => sum + (end - start) * (width - start),
        0,
      );
      const rows = (2 * strips) / width;
      expect(areSmallerAsRows(rows - 1, width)).toBe(true);
      expect(areSmallerAsRows(rows, width)).toBe(false);
    }
    // A layer of SDXL's inner level at 1024 × 1024, and one of its outer one.
    expect([areSmallerAsRows(1024, 1280), areSmallerAsRows(4096, 640)]).toEqual([true, false]);
  });
});
