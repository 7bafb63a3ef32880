/** Shapes that no layer has are refused by what they would cost, before anything is read or expanded. */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadAdapter, readAdapter } from '../../src/adapters/read.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { FormatError } from '../../src/errors.ts';
import { memoryStorage } from '../../src/formats/byte-reader.ts';
import type { DType } from '../../src/formats/dtype.ts';
import {
  elementCount,
  float32Tensor,
  type RawTensor,
  rowMajorStrides,
} from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { modulesOf } from '../../src/models/families/adapter-layers.ts';
import { LARGEST_WEIGHT, largestShapeOf } from '../../src/models/families/largest-shapes.ts';
import { scratch } from '../merging/random-adapters.ts';

const q = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q';

/** A tensor whose bytes must not be asked for, save those of single numbers. */
function claimed(name: string, shape: readonly number[], dtype: DType = 'F32'): RawTensor {
  const single = elementCount(shape) === 1;
  const storage = single
    ? memoryStorage(new Uint8Array(Float32Array.of(1).buffer))
    : {
        sizeBytes: 4 * elementCount(shape),
        range: null,
        read: (): Uint8Array => {
          throw new Error(`${name} was read`);
        },
      };
  return { name, dtype, shape, strides: rowMajorStrides(shape), storage, storageOffset: 0 };
}

function fileOf(...tensors: readonly RawTensor[]): TensorFile {
  return {
    path: '/somewhere/file.safetensors',
    format: 'safetensors',
    sizeBytes: 1000,
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    metadata: new Map(),
    root: null,
  };
}

const layer = (...parts: readonly (readonly [string, readonly number[]])[]): TensorFile =>
  fileOf(...parts.map(([part, shape]) => claimed(`${q}.${part}`, shape)));

describe('layers larger than their weight can be', () => {
  const cases: Record<string, [TensorFile, RegExp]> = {
    'LoRA of huge outer size': [
      layer(['lora_up.weight', [50_000, 1]], ['lora_down.weight', [1, 50_000]]),
      /expected a change of at most \[320, 320\], 102400 numbers.*got \[50000, 50000\], 2500000000 numbers/,
    ],
    'LoRA of huge rank': [
      layer(['lora_up.weight', [1, 100_000]], ['lora_down.weight', [100_000, 1]]),
      /expected a rank of at most 5120, got 100000/,
    ],
    'LoKr of two whole factors': [
      layer(['lokr_w1', [100, 100]], ['lokr_w2', [100, 100]]),
      /at most \[320, 320\].*got \[10000, 10000\], 100000000 numbers/,
    ],
    'LoKr of decomposed factors': [
      layer(
        ['lokr_w1_a', [1000, 1]],
        ['lokr_w1_b', [1, 1000]],
        ['lokr_w2_a', [1000, 1]],
        ['lokr_w2_b', [1, 1000]],
      ),
      /got \[1000000, 1000000\], 1000000000000 numbers/,
    ],
    'LoKr whose first factor alone has a huge rank': [
      layer(['lokr_w1_a', [2, 100_000]], ['lokr_w1_b', [100_000, 2]], ['lokr_w2', [4, 4]]),
      /rank of at most 5120, got 100000/,
    ],
    'LoKr with a core': [
      layer(
        ['lokr_w1', [2, 2]],
        ['lokr_w2_a', [4, 4]],
        ['lokr_w2_b', [1, 100_000]],
        ['lokr_t2', [4, 1, 300, 300]],
      ),
      /Tucker core that makes at most 29491200 numbers, got 36000000000/,
    ],
    'sizes beyond whole numbers': [
      layer(
        ['lokr_w1_a', [2 ** 30, 1]],
        ['lokr_w1_b', [1, 2 ** 30]],
        ['lokr_w2_a', [2 ** 30, 1]],
        ['lokr_w2_b', [1, 2 ** 30]],
      ),
      /expected a change of at most/,
    ],
    'LoHa of huge outer size': [
      layer(
        ['hada_w1_a', [50_000, 1]],
        ['hada_w1_b', [1, 50_000]],
        ['hada_w2_a', [50_000, 1]],
        ['hada_w2_b', [1, 50_000]],
      ),
      /got \[50000, 50000\]/,
    ],
    'LoCon whose core blows up': [
      layer(
        ['lora_up.weight', [1, 5000, 1, 1]],
        ['lora_down.weight', [1, 320, 1, 1]],
        ['lora_mid.weight', [5000, 1, 50, 50]],
      ),
      /Tucker core that makes at most 29491200 numbers, got 4000000000/,
    ],
    'a difference': [layer(['diff', [320, 321]]), /at most \[320, 320\].*got \[320, 321\]/],
    'DoRA over huge factors': [
      layer(['lora_up.weight', [50_000, 1]], ['lora_down.weight', [1, 50_000]], ['dora_scale', [50_000, 1]]),
      /got \[50000, 50000\]/,
    ],
    'Custom Diffusion’s factors': [
      fileOf(
        claimed('unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.u', [50_000, 1]),
        claimed('unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.v', [1, 50_000]),
      ),
      /got \[50000, 50000\]/,
    ],
    'diffusers’ names': [
      fileOf(
        claimed('unet.mid_block.attentions.0.proj_in.lora_A.weight', [1, 50_000]),
        claimed('unet.mid_block.attentions.0.proj_in.lora_B.weight', [50_000, 1]),
      ),
      /at most \[1280, 1280\]/,
    ],
  };
  for (const [name, [file, message]] of Object.entries(cases)) {
    it(`refuses ${name} by both numbers, unread`, () => {
      expect(() => readAdapter(file)).toThrow(FormatError);
      expect(() => readAdapter(file)).toThrow(message);
    });
  }

  it('refuses them as concepts too', async () => {
    const file = scratch('wide.safetensors');
    await writeSafetensors(file, [
      float32Tensor(`${q}.lora_up.weight`, [5000, 1], new Float32Array(5000)),
      float32Tensor(`${q}.lora_down.weight`, [1, 5000], new Float32Array(5000)),
    ]);
    await expect(loadConcept(file)).rejects.toThrow(/at most \[320, 320\].*got \[5000, 5000\]/);
  });

  it('refuses more layers, and more numbers in all, than a model has', () => {
    const many = Array.from({ length: 5001 }, (_, i) =>
      ['proj_in', 'proj_out'].map((name) => `lora_unet_down_blocks_${i}_attentions_0_${name}`),
    ).flat();
    const withLayers = (count: number) =>
      fileOf(
        ...many
          .slice(0, count)
          .flatMap((name) => [
            claimed(`${name}.lora_up.weight`, [1, 1]),
            claimed(`${name}.lora_down.weight`, [1, 1]),
          ]),
      );
    expect(readAdapter(withLayers(10_000)).layers.size).toBe(10_000);
    expect(() => readAdapter(withLayers(10_001))).toThrow(/at most 10000 layers/);
    const wide = Array.from({ length: 4000 }, (_, at) => at + 4).flatMap((i) => [
      claimed(`lora_unet_down_blocks_${i}_attentions_0_proj_in.lokr_w1`, [1, 1]),
      claimed(`lora_unet_down_blocks_${i}_attentions_0_proj_in.lokr_w2_a`, [1280, 1]),
      claimed(`lora_unet_down_blocks_${i}_attentions_0_proj_in.lokr_w2_b`, [1, 1280]),
    ]);
    expect(() => readAdapter(fileOf(...wide))).toThrow(/at most 4294967296 numbers in all, got 6553600000/);
  });

  it('refuses names and words of unreasonable length in a short message', () => {
    const long = 'x'.repeat(1_000_000);
    const word = claimed(`<${'w'.repeat(500)}>`, [1, 768]);
    for (const file of [fileOf(claimed(long, [4, 4])), fileOf(word)]) {
      let message = '';
      try {
        readAdapter(file);
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError);
        ({ message } = error as Error);
      }
      expect(message).toMatch(/characters/);
      expect(message.length).toBeLessThan(500);
    }
  });

  it('refuses biases, magnitudes and switches of other sizes than the layer', () => {
    const factors = [
      ['lora_up.weight', [8, 2]],
      ['lora_down.weight', [2, 6]],
    ] as const;
    expect(() => readAdapter(layer(...factors, ['diff_b', [7]]))).toThrow(/difference of 8 biases/);
    expect(() => readAdapter(layer(...factors, ['dora_scale', [5, 1]]))).toThrow(/magnitude per output/);
    expect(() => readAdapter(layer(['weight', [8]], ['on_input', [3]]))).toThrow(/expected one number/);
    expect(() => readAdapter(layer(...factors, ['alpha', [3]]))).toThrow(/expected one number/);
    const conv = 'lora_unet_up_blocks_1_resnets_2_conv1';
    expect(() =>
      readAdapter(fileOf(claimed(`${conv}.lokr_w1`, [2, 2]), claimed(`${conv}.lokr_w2`, [4, 5]))),
    ).toThrow(/inputs times a kernel of 3 × 3, got 10 columns/);
    expect(() => readAdapter(fileOf(claimed('<w>', [5000, 8])))).toThrow(/at most 1024 vectors, got 5000/);
    const { unusable } = readAdapter(layer(['diff', [8]]));
    expect(unusable.map(({ reason }) => reason)).toEqual([expect.stringContaining('a change of a vector')]);
  });
});

describe('the largest shape of a layer', () => {
  it('is known for every layer of both models, and none is larger than the largest', () => {
    for (const architecture of ['sd1', 'sdxl'] as const) {
      for (const module of modulesOf(architecture)) {
        const [rows, columns] = largestShapeOf(module);
        expect(rows * columns, module.layerName).toBeLessThanOrEqual(LARGEST_WEIGHT);
      }
    }
    const of = (layerName: string) => largestShapeOf({ component: 'unet', layerName });
    expect(of('up_blocks.0.resnets.0.conv1')).toEqual([1280, 23040]);
    expect(of('down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj')).toEqual([2560, 320]);
    expect(of('mid_block.attentions.0.transformer_blocks.9.ff.net.2')).toEqual([1280, 5120]);
    expect(of('up_blocks.1.upsamplers.0.conv')).toEqual([1280, 11520]);
  });
});

describe.skipIf(process.platform === 'win32')('an adapter’s configuration', () => {
  it('is not waited for where it is a pipe', async () => {
    const file = scratch('adapter_model.safetensors');
    const name = 'base_model.model.mid_block.attentions.0.proj_in';
    await writeSafetensors(file, [
      float32Tensor(`${name}.lora_A.weight`, [1, 4], new Float32Array(4)),
      float32Tensor(`${name}.lora_B.weight`, [4, 1], new Float32Array(4)),
    ]);
    execFileSync('mkfifo', [path.join(path.dirname(file), 'adapter_config.json')]);
    await expect(loadAdapter(file)).rejects.toThrow('regular file');
    await expect(loadConcept(file)).rejects.toThrow('regular file');
  });
});
