/** Where a word's tokens are in a prompt as it is encoded: weights and further windows included. */
import { expect, it } from 'vitest';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { defaultBase } from '../../src/package-root.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { PromptEncoder } from '../../src/sampling/prompt-encoder.ts';

it('words are found at all of their tokens, wherever they stand', async () => {
  const base = await openCheckpoint(defaultBase());
  const vocabulary = bindConcepts(base.parts.tokenizers, [], base.parts.layers.contextCount);
  const encoder = new PromptEncoder(base, vocabulary, new Map(), 0, executionContext());
  const first = (prompt: string, word: string): number[] => encoder.wordPositions(prompt, [word])[0]![0]!;
  // Begin, photo, of, a, red, circle.
  expect(first('photo of a red circle', 'red')).toEqual([4]);
  expect(first('photo of a (red circle:1.3)', 'red circle')).toEqual([4, 5]);
  expect(first('red and red', 'red')).toEqual([1, 3]);
  expect(first('photo', 'red')).toEqual([]);
  // 75 words fill a window; the next one begins with a token of its own.
  expect(first(`${'circle '.repeat(75)}red`, 'red')).toEqual([78]);
  const layers = encoder.wordPositions('red', ['red'])[0]!;
  expect(layers).toEqual(Array(vocabulary.layerCount).fill([1]));
});
