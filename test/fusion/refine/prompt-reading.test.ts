import { describe, expect, it } from 'vitest';
import { PromptReading } from '../../../src/fusion/refine/prompt-reading.ts';
import { float32 } from '../../../src/tensor/tensor.ts';

const of = (...layers: number[][]) => ({
  context: float32([1, layers.length, 1, layers[0]!.length], Float32Array.from(layers.flat())),
  pooled: float32([1, 2], Float32Array.of(8, 9)),
});

describe('what a model reads of a prompt', () => {
  it('is given back as it was, and kept once where all cross-attentions read the same', () => {
    const shared = of([1, 2, 3], [1, 2, 3], [1, 2, 3]);
    const reading = new PromptReading(shared);
    expect(reading.conditioning).toEqual(shared);
    expect(reading.kept.context.shape).toEqual([1, 1, 1, 3]);
  });

  it.each([
    ['first', of([1, 2, 4], [1, 2, 3], [1, 2, 3])],
    ['last', of([1, 2, 3], [1, 2, 3], [1, 2, 4])],
    ['only', of([1, 2, 3])],
  ])('is kept whole where the %s of them reads another thing', (_, own) => {
    const reading = new PromptReading(own);
    expect(reading.conditioning).toEqual(own);
    expect(reading.kept.context.data).toHaveLength(own.context.data.length);
  });
});
