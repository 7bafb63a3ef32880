/** Random adapters of small size, for properties over schemes, ranks, alphas and dtypes. */
import type { AdapterLayer, AdapterModule } from '../../src/adapters/adapter.ts';
import { layerDelta } from '../../src/adapters/delta.ts';
import type { FactorDType } from '../../src/adapters/encode-layer.ts';
import type { OutputAdapter } from '../../src/adapters/write.ts';
import { encodeFloat } from '../../src/formats/dtype.ts';
import { memoryTensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { scratch } from '../support/scratch.ts';

export { scratch };

export interface RandomLayer {
  readonly module: AdapterModule;
  readonly kernel: readonly [number, number] | null;
  readonly m: number;
  readonly n: number;
}

const block = 'down_blocks.1.attentions.0.transformer_blocks.0';

/** Layers that every scheme but positional ones can hold: attention of both networks. */
export const attentionLayers: readonly RandomLayer[] = [
  { module: { component: 'unet', layerName: `${block}.attn1.to_q` }, kernel: null, m: 12, n: 10 },
  { module: { component: 'unet', layerName: `${block}.attn2.to_k` }, kernel: null, m: 12, n: 16 },
  { module: { component: 'unet', layerName: `${block}.attn2.to_out.0` }, kernel: null, m: 9, n: 11 },
  {
    module: { component: 'text_encoder', layerName: 'text_model.encoder.layers.3.self_attn.v_proj' },
    kernel: null,
    m: 10,
    n: 13,
  },
];

/** With feed-forward and convolutions. */
export const allLayers: readonly RandomLayer[] = [
  ...attentionLayers,
  { module: { component: 'unet', layerName: `${block}.ff.net.2` }, kernel: null, m: 12, n: 14 },
  {
    module: { component: 'unet', layerName: 'mid_block.attentions.0.proj_in' },
    kernel: [1, 1],
    m: 12,
    n: 12,
  },
  { module: { component: 'unet', layerName: 'up_blocks.1.resnets.2.conv1' }, kernel: [3, 3], m: 8, n: 6 },
  { module: { component: 'unet', layerName: 'up_blocks.1.upsamplers.0.conv' }, kernel: [3, 3], m: 9, n: 9 },
];

export interface RandomSpec {
  readonly seed: number;
  readonly rank: number;
  readonly loraAlpha: number;
  readonly dtype: FactorDType;
}

/** Random plain LoRA. */
export function randomAdapter(layers: readonly RandomLayer[], spec: RandomSpec): OutputAdapter {
  const draw = drawer(spec);
  return {
    architecture: 'sd1',
    words: [],
    title: `random ${spec.seed}`,
    layers: layers.map(({ module, kernel, m, n }) => ({
      ...module,
      kind: 'lora' as const,
      up: draw(kernel === null ? [m, spec.rank] : [m, spec.rank, 1, 1]),
      down: draw(kernel === null ? [spec.rank, n] : [spec.rank, n, ...kernel]),
      mid: null,
      rank: spec.rank,
      scale: spec.loraAlpha / spec.rank,
      kernel,
      doraScale: null,
      biasDiff: null,
    })),
  };
}

/** Random LoHa, LoKr, LoCon with a core, and full differences, in turn. */
export function randomLycoris(layers: readonly RandomLayer[], spec: RandomSpec): OutputAdapter {
  const draw = drawer(spec);
  const { rank } = spec;
  const scale = spec.loraAlpha / rank;
  const pair = (m: number, n: number) => ({ a: draw([m, rank]), b: draw([rank, n]), core: null });
  const made = layers.map(({ module, kernel, m, n }, i): AdapterLayer => {
    const info = { ...module, kernel, doraScale: null, biasDiff: null };
    const area = kernel === null ? 1 : kernel[0] * kernel[1];
    switch (i % 4) {
      case 0:
        return { ...info, kind: 'loha', w1: pair(m, n * area), w2: pair(m, n * area), rank, scale };
      case 1:
        // 2 · (m / 2) outputs; inputs as a whole in the second factor.
        return m % 2 === 0
          ? { ...info, kind: 'lokr', w1: { full: draw([2, 1]) }, w2: pair(m / 2, n * area), rank, scale }
          : {
              ...info,
              kind: 'diff',
              diff: draw(kernel === null ? [m, n] : [m, n, ...kernel]),
              rank: null,
              scale: 1,
            };
      case 2:
        return kernel === null
          ? { ...info, kind: 'lora', up: draw([m, rank]), down: draw([rank, n]), mid: null, rank, scale }
          : {
              ...info,
              kind: 'lora',
              up: draw([m, rank, 1, 1]),
              down: draw([rank, n, 1, 1]),
              mid: draw([rank, rank, ...kernel]),
              rank,
              scale,
            };
      default:
        return {
          ...info,
          kind: 'diff',
          diff: draw(kernel === null ? [m, n] : [m, n, ...kernel]),
          rank: null,
          scale: 1,
        };
    }
  });
  return { architecture: 'sd1', words: [], title: `lycoris ${spec.seed}`, layers: made };
}

function drawer({ seed, dtype }: RandomSpec): (shape: readonly number[]) => RawTensor {
  const generator = new TorchGenerator(seed);
  return (shape) => {
    const values = generator.randn(shape.reduce((a, b) => a * b, 1));
    return memoryTensor('random', dtype, shape, encodeFloat(values, dtype));
  };
}

/** ΔW written out, by the plainest loops. */
export function denseOf(layer: AdapterLayer): Float64Array {
  const { up, down, scale } = layerDelta(layer);
  const out = new Float64Array(up.rows * down.cols);
  for (let i = 0; i < up.rows; i++) {
    for (let j = 0; j < down.cols; j++) {
      let sum = 0;
      for (let k = 0; k < up.cols; k++) sum += up.data[i * up.cols + k]! * down.data[k * down.cols + j]!;
      out[i * down.cols + j] = scale * sum;
    }
  }
  return out;
}
