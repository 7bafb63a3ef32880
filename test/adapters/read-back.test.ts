/** Whatever an adapter holds: it is refused with a reason, or what is made of it opens again. */
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { AdapterWord } from '../../src/adapters/adapter.ts';
import { loadAdapter } from '../../src/adapters/read.ts';
import { layerFormats } from '../../src/adapters/schemes/index.ts';
import { wordFormats } from '../../src/adapters/words.ts';
import { writeAdapter } from '../../src/adapters/write.ts';
import { writeEmbeddings, writeLora } from '../../src/concepts/lora-file.ts';
import { EdloraError, FormatError } from '../../src/errors.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, memoryTensor, type RawTensor, renamed } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { convertFile, isWordFormat } from '../../src/merging/jobs/convert-file.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import {
  allLayers,
  attentionLayers,
  randomAdapter,
  randomLycoris,
  scratch,
} from '../merging/random-adapters.ts';
import { tokenOf } from '../support/tokens.ts';

const numbers = (count: number): Float32Array => Float32Array.from({ length: count }, (_, i) => Math.sin(i));
const spec = { seed: 5, rank: 2, loraAlpha: 3, dtype: 'F32' } as const;
const word = (name: string, rows: number): AdapterWord => ({
  word: name,
  embedding: float32Tensor(name, [rows, 8], numbers(rows * 8)),
  rows: rows === 16 ? 'layers' : 'tokens',
  encoder: 'text_encoder',
});

type Content = { tensors: RawTensor[]; metadata: Record<string, string> };

async function contentOf(file: string): Promise<Content> {
  const { tensors, metadata } = await openTensorFile(file);
  return { tensors: [...tensors.values()], metadata: Object.fromEntries(metadata) };
}

async function written(...args: Parameters<typeof writeAdapter> extends [string, ...infer T] ? T : never) {
  const file = scratch('seed.safetensors');
  await writeAdapter(file, ...args);
  return contentOf(file);
}

async function seeds(): Promise<Content[]> {
  const key = 'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k';
  return [
    await written('kohya', { ...randomAdapter(attentionLayers, spec), words: [word('<cat>', 2)] }),
    await written('lycoris', randomLycoris(allLayers, spec)),
    await written('ed-lora', {
      ...randomAdapter(attentionLayers, spec),
      words: [word('<a1>', 16), word('<a2>', 16)],
    }),
    await written('diffusers', randomAdapter(attentionLayers, spec)),
    {
      tensors: [
        float32Tensor(`${key}.u`, [8, 2], numbers(16)),
        float32Tensor(`${key}.v`, [2, 6], numbers(12)),
        float32Tensor('modifier_token.<new1>', [1, 8], numbers(8)),
      ],
      metadata: {},
    },
    {
      tensors: [float32Tensor('<dog>', [3, 8], numbers(24)), float32Tensor('<house>', [16, 8], numbers(128))],
      metadata: {},
    },
    { tensors: [float32Tensor('emb_params', [2, 8], numbers(16))], metadata: { name: 'cat' } },
    {
      tensors: [float32Tensor('clip_l', [2, 8], numbers(16)), float32Tensor('clip_g', [2, 12], numbers(24))],
      metadata: {},
    },
  ];
}

const strangeWords = [
  'emb_params',
  'clip_l',
  'a.weight',
  'x:up',
  'new_concept_embedding.x',
  'unet:0:up',
  'embed.x',
  'string_to_param.*',
  '__proto__',
  ' ',
  'IN01',
  'lora_unet_x.alpha',
  'w'.repeat(300),
];

/** One thing changed, as a careless or hostile hand would. */
function mutated({ tensors, metadata }: Content, random: () => number): Content {
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const at = Math.floor(random() * tensors.length);
  const own = tensors[at]!;
  const replaced = (tensor: RawTensor): Content => ({
    tensors: tensors.map((other, i) => (i === at ? tensor : other)),
    metadata,
  });
  const sized = (shape: readonly number[]): Content =>
    replaced(float32Tensor(own.name, shape, numbers(shape.reduce((a, b) => a * b, 1))));
  switch (Math.floor(random() * 9)) {
    case 0:
      return sized(pick([[], [1], [8], [0, 8], [2, 2, 8], [1, 1, 8, 1], [16, 8], [8, 16]]));
    case 1:
      return sized([...own.shape].reverse());
    case 2:
      return sized([...own.shape, 1, 1]);
    case 3:
      return { tensors: tensors.filter((_, i) => i !== at), metadata };
    case 4: {
      const name = /<[^>]+>/.test(own.name)
        ? own.name.replace(/<[^>]+>/, pick(strangeWords))
        : pick(strangeWords);
      return replaced(renamed(own, name));
    }
    case 5: {
      const value = pick([Number.NaN, 0, -1, 1e300, 1e-300, 1e39, Number.POSITIVE_INFINITY]);
      const alpha = tensors.findIndex(({ name }) => name.endsWith('.alpha'));
      const bytes = new Uint8Array(Float64Array.of(value).buffer);
      return {
        tensors: tensors.map((other, i) =>
          i === alpha ? memoryTensor(other.name, 'F64', [], bytes) : other,
        ),
        metadata,
      };
    }
    case 6:
      return replaced(
        memoryTensor(own.name, 'I32', [2, 2], new Uint8Array(new Int32Array([1, 2, 3, 4]).buffer)),
      );
    case 7: {
      const value = pick(['', '[]', '{"a":1}', '["<a1>"]', 'null', '[[['.repeat(1000), '["<a1>","<a1>"]']);
      return { tensors, metadata: { ...metadata, [pick(['edlora.tokens', 'name', 'unet', '<a1>'])]: value } };
    }
    default:
      return { tensors: [...tensors, { ...own, name: pick(strangeWords) }], metadata };
  }
}

describe('an adapter, whatever was done to it', () => {
  it('is refused with a reason, or every file made of it opens again', async () => {
    const generator = new TorchGenerator(41);
    const random = (): number => generator.randFloat64(1)[0]!;
    const formats = [...new Set([...layerFormats, ...wordFormats])];
    const all = await seeds();
    let opened = 0;
    for (let i = 0; i < 240; i++) {
      const seed = all[i % all.length]!;
      const input = scratch('mutant.safetensors');
      const content = i < all.length ? seed : mutated(seed, random);
      try {
        await writeSafetensors(input, content.tensors, content.metadata);
        await loadAdapter(input);
      } catch (error) {
        expect(error, `mutant ${i}`).toBeInstanceOf(EdloraError);
        continue;
      }
      for (let j = 0; j < 4; j++) {
        const format = formats[Math.floor(random() * formats.length)]!;
        const torch = isWordFormat(format) && random() < 0.5;
        const out = scratch(format === 'peft' ? 'out' : torch ? 'out.pt' : 'out.safetensors');
        const where = `mutant ${i} as ${format}${torch ? ' in torch' : ''}`;
        try {
          await convertFile({ input, out, format, drop: true, rank: 2, dtype: 'F32' });
        } catch (error) {
          expect(error, where).toBeInstanceOf(EdloraError);
          expect((error as Error).message, where).not.toContain('internal');
          expect(existsSync(out), where).toBe(false);
          continue;
        }
        await expect(loadAdapter(out), where).resolves.toBeDefined();
        opened++;
      }
    }
    expect(opened).toBeGreaterThan(100);
  });
});

describe('what is refused rather than written', () => {
  it('words of Custom Diffusion that are no vectors', async () => {
    for (const shape of [[], [1, 2, 8], [0, 8]]) {
      const file = scratch('delta.safetensors');
      await writeSafetensors(file, [
        float32Tensor('modifier_token.<new1>', shape, numbers(shape.reduce((a, b) => a * b, 1))),
      ]);
      await expect(loadAdapter(file)).rejects.toThrow(
        /embedding of <new1>: expected numbers of \[vectors, width\]/,
      );
    }
  });

  it('alphas that float32 does not hold', async () => {
    for (const scale of [1e300, 1e-300, -1]) {
      const output = randomAdapter(attentionLayers, spec);
      const layers = output.layers.map((layer) => ({ ...layer, scale }));
      const format = scale === -1 ? 'peft' : 'kohya';
      await expect(writeAdapter(scratch('a.safetensors'), format, { ...output, layers })).rejects.toThrow(
        /it would not open again: /,
      );
    }
  });

  it('words that a form would take for something else', async () => {
    const words = [{ ...word('clip_l', 2) }];
    await expect(
      writeEmbeddings(scratch('e.safetensors'), [tokenOf('a.weight', words[0]!.embedding)]),
    ).rejects.toThrow(FormatError);
    const input = scratch('w.safetensors');
    await writeSafetensors(input, [float32Tensor('emb_params', [2, 8], numbers(16))], { name: 'x.weight' });
    const job = { input, out: scratch('out.safetensors'), format: 'diffusers-embedding' } as const;
    await expect(convertFile(job)).rejects.toThrow(/cannot be written as diffusers-embedding/);
    expect(existsSync(job.out)).toBe(false);
  });

  it('files of nothing', async () => {
    const input = scratch('w.safetensors');
    await writeSafetensors(input, [float32Tensor('<dog>', [1, 8], numbers(8))]);
    for (const format of ['peft', 'diffusers', 'kohya-ldm'] as const) {
      const out = scratch(format === 'peft' ? 'out' : 'out.safetensors');
      const done = convertFile({ input, out, format, drop: true });
      if (format === 'kohya-ldm') await done;
      else await expect(done).rejects.toThrow('nothing is left to write');
    }
  });

  it('layers of a merged LoRA that no reader knows', async () => {
    const layer = {
      component: 'unet' as const,
      layerName: 'somewhere.else',
      up: numbers(4),
      down: numbers(4),
      rank: 1,
      kernel: null,
    };
    await expect(writeLora(scratch('a.safetensors'), [layer], { naming: 'diffusers' })).rejects.toThrow(
      /cannot be written as diffusers, it would not open again/,
    );
  });
});
