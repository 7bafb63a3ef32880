/** Words in the forms that files of layers want. */
import { expect, it } from 'vitest';
import type { AdapterWord } from '../../src/adapters/adapter.ts';
import { bundledTensors, isTorchName } from '../../src/adapters/word-forms.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';

const word = (encoder: AdapterWord['encoder']): AdapterWord => ({
  word: '<a>',
  embedding: float32Tensor('any', [1, 2], Float32Array.of(1, 2)),
  rows: 'tokens',
  encoder,
});
const names = (words: readonly AdapterWord[], encoders: number) =>
  bundledTensors(words, encoders).map(({ name }) => name);

it('a bundled word says whose it is where there are several text encoders, and there alone', () => {
  expect(names([word('text_encoder')], 1)).toEqual(['bundle_emb.<a>.string_to_param.*']);
  expect(names([word('text_encoder'), word('text_encoder_2')], 2)).toEqual([
    'bundle_emb.<a>.clip_l',
    'bundle_emb.<a>.clip_g',
  ]);
});

it('PyTorch’s endings are known from safetensors', () => {
  expect(['a.pth', 'a.pt', 'a.bin', 'a.pth.safetensors', 'pt'].map(isTorchName)).toEqual([
    true,
    true,
    true,
    false,
    false,
  ]);
});
