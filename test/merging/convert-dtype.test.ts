/** The dtype that is asked for is that of every tensor of a layer, whatever its kind. */
import { expect, it } from 'vitest';
import { readAdapter } from '../../src/adapters/read.ts';
import { partTensors } from '../../src/adapters/schemes/factor-tensors.ts';
import { unwrittenFile } from '../../src/adapters/unwritten-file.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { convertAdapter } from '../../src/merging/convert.ts';
import { relativeError } from '../support/close.ts';
import { denseOf } from './random-adapters.ts';

const module = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k';
const conv = 'lora_unet_up_blocks_1_resnets_2_conv1';
/** Suffix and shape. */
type Parts = Readonly<Record<string, readonly number[]>>;
const pair: Parts = { 'lora_up.weight': [4, 2], 'lora_down.weight': [2, 3] };

it.each<[string, string, Parts]>([
  ['LoRA', module, pair],
  ['DoRA', module, { ...pair, dora_scale: [4, 1] }],
  ['a bias', module, { ...pair, diff_b: [4] }],
  ['LoHa', module, { hada_w1_a: [4, 2], hada_w1_b: [2, 3], hada_w2_a: [4, 2], hada_w2_b: [2, 3] }],
  ['LoKr', module, { lokr_w1: [2, 1], lokr_w2_a: [2, 2], lokr_w2_b: [2, 3] }],
  ['(IA)³', module, { weight: [4], on_input: [1] }],
  ['a full difference', module, { diff: [4, 3] }],
  [
    'a Tucker core',
    conv,
    { 'lora_up.weight': [4, 2, 1, 1], 'lora_down.weight': [2, 3, 1, 1], 'lora_mid.weight': [2, 2, 3, 3] },
  ],
])('%s', async (_, layer, parts) => {
  const tensors = Object.entries(parts).map(([suffix, shape], i) =>
    float32Tensor(
      `${layer}.${suffix}`,
      shape,
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, j) => ((i + j) % 5) / 8),
    ),
  );
  const adapter = readAdapter(unwrittenFile('any.safetensors', tensors));
  const { output } = await convertAdapter(adapter, 'lycoris', { dtype: 'F16' });
  const [before] = adapter.layers.values();
  const [after] = output.layers;
  const dtypes = partTensors(after!).map(([, { dtype }]) => dtype);
  expect(dtypes).toEqual(dtypes.map(() => 'F16'));
  expect(dtypes.length).toBe(partTensors(before!).length);
  if (before!.kind !== 'ia3' && before!.doraScale === null) {
    expect(relativeError(denseOf(after!), denseOf(before!))).toBe(0);
  }
});
