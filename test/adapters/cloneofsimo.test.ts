/** Layers by number alone: a file says which they are only when it has all of them. */
import { describe, expect, it } from 'vitest';
import { readAdapter } from '../../src/adapters/read.ts';
import { unwrittenFile } from '../../src/adapters/unwritten-file.ts';
import { float32Tensor, type RawTensor } from '../../src/formats/raw-tensor.ts';

const WIDTH = 768;
const pair = (index: number): RawTensor[] => [
  float32Tensor(`text_encoder:${index}:up`, [WIDTH, 1], new Float32Array(WIDTH)),
  float32Tensor(`text_encoder:${index}:down`, [1, WIDTH], new Float32Array(WIDTH)),
];
const read = (...indices: number[]) =>
  readAdapter(unwrittenFile('positional.safetensors', indices.flatMap(pair)));

describe('numbered layers of the text encoder', () => {
  it('are four per block, of as many blocks as there are', () => {
    expect([...read(0, 1, 2, 3).layers.values()].map(({ layerName }) => layerName)).toEqual(
      ['k_proj', 'v_proj', 'q_proj', 'out_proj'].map(
        (name) => `text_model.encoder.layers.0.self_attn.${name}`,
      ),
    );
  });

  it.each([[[0]], [[0, 1, 2]], [[0, 1, 2, 4]]])('%j are refused', (indices) => {
    expect(() => read(...indices)).toThrow(/text_encoder: expected 4 or .*without gaps, got \d/);
  });
});
