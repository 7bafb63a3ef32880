/** Whether a base of half width leaves memory for work with it. */
import path from 'node:path';
import { expect, it } from 'vitest';
import { elementCount } from '../../src/formats/raw-tensor.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { leanAdvice, wideBytes } from '../../src/models/wide-weights.ts';
import { packageRoot } from '../../src/package-root.ts';
import { withLeanWeights } from '../../src/runtime/half-weights.ts';
import { goldenPath } from '../support/goldens.ts';

it('says so where widened weights take more than half of the memory, and stay wide', async () => {
  const base = await openCheckpoint(path.join(packageRoot(), 'fixtures/tiny-world-xl/model'));
  const wide = wideBytes(base);
  // All but embeddings, norms and biases.
  const { unet, textEncoders } = base.parts;
  const stored = [unet, ...textEncoders.values()]
    .flatMap(({ file }) => [...file.tensors.values()])
    .reduce((sum, { shape }) => sum + elementCount(shape), 0);
  expect(wide / (4 * stored)).toBeGreaterThan(0.8);
  expect(wide).toBeLessThan(4 * stored);
  expect(leanAdvice(base, 2 * wide)).toBeNull();
  expect(leanAdvice(base, 2 * wide - 1)).toMatch(
    /tiny-world-xl\/model: half-width weights take 0\.\d GB .* `withLeanWeights` keeps/,
  );
  expect(withLeanWeights(() => leanAdvice(base, 1))).toBeNull();
});

it('has nothing to say of weights that are float32 already', async () => {
  const base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
  expect(wideBytes(base)).toBe(0);
  expect(leanAdvice(base, 1)).toBeNull();
});
