/** Biases of a layer are summed as its factors are, each by its file's strength. */
import { expect, it } from 'vitest';
import { readAdapter } from '../../src/adapters/read.ts';
import { unwrittenFile } from '../../src/adapters/unwritten-file.ts';
import { float32Tensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { mergeAdapters } from '../../src/merging/merge.ts';

const layer = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k';

function adapterWith(path: string, bias: readonly number[]) {
  const tensor = (suffix: string, shape: readonly number[], values: readonly number[]) =>
    float32Tensor(`${layer}.${suffix}`, shape, Float32Array.from(values));
  return readAdapter(
    unwrittenFile(path, [
      tensor('lora_up.weight', [2, 1], [1, 2]),
      tensor('lora_down.weight', [1, 3], [1, 2, 3]),
      tensor('diff_b', [2], bias),
    ]),
  );
}

it.each(['cat', 'svd'] as const)('%s', async (method) => {
  const inputs = [
    { adapter: adapterWith('a.safetensors', [4, -8]), strength: 0.5 },
    { adapter: adapterWith('b.safetensors', [16, 32]), strength: -0.25 },
  ];
  const { output } = await mergeAdapters(inputs, { method });
  expect([...readFloat32(output.layers[0]!.biasDiff!)]).toEqual([-2, -12]);
});
