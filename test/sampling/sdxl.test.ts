/** What drawing with SDXL has that Stable Diffusion 1.x has not: two tokenizers, no prompt at all, sizes; and what both share. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Concept } from '../../src/concepts/concept.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { UsageError } from '../../src/errors.ts';
import { float32Tensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { lowRank } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { controlNetSchema } from '../../src/models/controlnet/config.ts';
import { buildConditionEmbedding, buildControlNet } from '../../src/models/controlnet/controlnet.ts';
import { openControlNet } from '../../src/models/controlnet/open.ts';
import { planScene } from '../../src/sampling/draw-scene.ts';
import { openSceneModel } from '../../src/sampling/model-source.ts';
import { PromptEncoder } from '../../src/sampling/prompt-encoder.ts';
import type { Region } from '../../src/sampling/region.ts';
import type { SampleRequest } from '../../src/sampling/request.ts';
import { Pipeline, type PipelineParts } from '../../src/sampling/sample.ts';
import { normalScene } from '../../src/sampling/scene.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { familiesPath } from '../support/goldens.ts';
import { randomWeights } from '../support/random-weights.ts';
import { scratch } from '../support/scratch.ts';

const model = familiesPath('sdxl', 'model');
const CAT = 'a photo of a cat';
const ALL: Region['shape'] = { kind: 'box', box: { top: 0, left: 0, bottom: 1, right: 1 } };
const REQUEST = { width: 32, height: 32, steps: 2, guidanceScale: 3, seed: 3 };

let base: Checkpoint;
let plain: Pipeline;
beforeAll(async () => {
  base = await openCheckpoint(model);
  plain = await Pipeline.create(base);
});
afterAll(() => plain.dispose());

const latentsOf = async (pipeline: Pipeline, request: Partial<SampleRequest>): Promise<Float32Array> => {
  const [picture] = await pipeline.sample({ prompt: CAT, ...REQUEST, ...request });
  return picture!.latents.data;
};
async function drawnWith(parts: PipelineParts, request: Partial<SampleRequest>): Promise<Float32Array> {
  const pipeline = await Pipeline.create(base, parts);
  try {
    return await latentsOf(pipeline, request);
  } finally {
    await pipeline.dispose();
  }
}

describe('a prompt', () => {
  it('has windows of each tokenizer’s own, filled up with its own padding', async () => {
    const encoder = new PromptEncoder(base, bindConcepts(base.parts.tokenizers, [], 28), new Map(), 0);
    const long = 'wow! a dog ! '.repeat(30);
    const each = (text: string | null) => (text === null ? null : Array<string>(28).fill(text));
    const [[empty, short, longer]] = (await encoder.encode([
      [each(''), each(CAT), each(long)],
    ])) as unknown as [{ context: { shape: readonly number[]; data: Float32Array } }[]];
    const windows = longer!.context.shape[2]! / 77;
    const counts = [...base.parts.tokenizers.values()].map((tokenizer) =>
      Math.ceil((tokenizer.encode(long).length - 2) / 75),
    );
    expect(windows).toBe(Math.max(...counts));
    expect(windows).toBeGreaterThan(1);
    // The shorter ones have empty windows behind their own.
    const [width, tokens] = [empty!.context.shape[3]!, empty!.context.shape[2]!];
    const second = (data: Float32Array) => data.subarray(77 * width, tokens * width);
    expect(second(short!.context.data)).toEqual(second(empty!.context.data));
    const whole = empty!.context.data;
    expect(whole.subarray(77 * width, 154 * width)).toEqual(whole.subarray(0, 77 * width));
  });

  /** A base whose second tokenizer has one token where the first has several. */
  function uneven() {
    const [first, second] = [...base.parts.textEncoders];
    // A word that pads is one token as it stands, and several elsewhere.
    const word = 'photo</w>';
    const padded = { ...second![1], tokenizer: second![1].tokenizer.withPadding(word) };
    const parts = base.parts.with({ textEncoders: new Map([first!, [second![0], padded]]) });
    const vocabulary = bindConcepts(parts.tokenizers, [], 28);
    const encoder = new PromptEncoder({ ...base, parts }, vocabulary, new Map(), 0);
    return { encoder, parts, first: first![1], word };
  }

  it('weighs words where each text encoder has them', async () => {
    const { encoder, parts, first, word } = uneven();
    const each = (own: string) => Array<string>(28).fill(own);
    const [[empty, full, double]] = (await encoder.encode([
      [each(''), each(`${word} cat`), each(`${word} (cat:2)`)],
    ])) as unknown as [{ context: { data: Float32Array } }[]];
    const width = base.parts.unet.config.crossAttentionDim;
    [...parts.tokenizers.values()].forEach((tokenizer, encoder) => {
      const at = tokenizer.encode(word).length - 1;
      const from = at * width + (encoder === 0 ? 0 : first.config.hiddenSize);
      const own = (data: Float32Array) => data.subarray(from, from + 8);
      const [e, f] = [own(empty!.context.data), own(full!.context.data)];
      expect(own(double!.context.data)).toBeAllClose(
        e.map((value, i) => value + 2 * (f[i]! - value)),
        { rtol: 0, atol: 1e-5 },
      );
    });
  });

  it('that is longer for one tokenizer than for the other has empty windows for the latter', async () => {
    const { encoder, parts, first, word } = uneven();
    const text = word.repeat(40);
    const lengths = [...parts.tokenizers.values()].map((tokenizer) => tokenizer.encode(text).length);
    expect([lengths[0]! > 77, lengths[1]]).toEqual([true, 42]);
    const each = (own: string) => Array<string>(28).fill(own);
    const [[long, empty]] = (await encoder.encode([[each(text), each('')]])) as unknown as [
      { context: { data: Float32Array } }[],
    ];
    const width = base.parts.unet.config.crossAttentionDim;
    const from = first.config.hiddenSize;
    for (let token = 0; token < 77; token++) {
      const at = (77 + token) * width;
      const own = long!.context.data.subarray(at + from, at + width);
      expect(own).toEqual(empty!.context.data.subarray(token * width + from, (token + 1) * width));
    }
  });

  it('is read by a vocabulary of all text encoders alone', () => {
    const half = bindConcepts(base.tokenizer, [], 28);
    expect(() => new PromptEncoder(base, half, new Map(), 0)).toThrow(
      /expected one bound to the tokenizers of text_encoder, text_encoder_2 .*, got text_encoder$/,
    );
  });

  it('weighs words in both text encoders', async () => {
    const encoder = new PromptEncoder(base, bindConcepts(base.parts.tokenizers, [], 28), new Map(), 0);
    const each = (text: string) => Array<string>(28).fill(text);
    const [[empty, full, none, double]] = (await encoder.encode([
      [each(''), each('the cat'), each('(the cat:0)'), each('(the cat:2)')],
    ])) as unknown as [
      { context: { data: Float32Array; shape: number[] }; pooled: { data: Float32Array } }[],
    ];
    const width = base.parts.unet.config.crossAttentionDim;
    const length = base.tokenizer.encode('the cat').length;
    for (let i = width; i < (length - 1) * width; i++) {
      const [e, f] = [empty!.context.data[i]!, full!.context.data[i]!];
      expect(none!.context.data[i]!).toBeCloseTo(e, 5);
      expect(double!.context.data[i]!).toBeCloseTo(e + 2 * (f - e), 4);
    }
    expect(none!.pooled.data).toEqual(full!.pooled.data);
  });

  it('that is none at all is not the empty one', async () => {
    const encoder = new PromptEncoder(base, bindConcepts(base.parts.tokenizers, [], 28), new Map(), 0);
    const [[none, empty]] = (await encoder.encode([[null, Array<string>(28).fill('')]])) as unknown as [
      { context: { data: Float32Array }; pooled: { data: Float32Array } }[],
    ];
    expect(none!.context.data.every((value) => value === 0)).toBe(true);
    expect(none!.pooled.data.every((value) => value === 0)).toBe(true);
    expect(empty!.context.data.some((value) => value !== 0)).toBe(true);
    const other = { ...base, zerosForNoPrompt: false };
    const plainly = new PromptEncoder(other, bindConcepts(base.parts.tokenizers, [], 28), new Map(), 0);
    const [[encoded]] = (await plainly.encode([[null]])) as unknown as [
      { context: { data: Float32Array } }[],
    ];
    expect(encoded!.context.data).toEqual(empty!.context.data);
  });
});

describe('a picture', () => {
  it('with a region over all of it is that region’s', async () => {
    const alone = await latentsOf(plain, { negativePrompt: 'the dog' });
    const regions = [{ prompt: CAT, negativePrompt: 'the dog', shape: ALL }];
    const placed = await latentsOf(plain, { negativePrompt: 'the dog', regions });
    expect(placed).toBeAllClose(alone, { rtol: 0, atol: 1e-4 });
    const dog = [{ prompt: 'the dog', shape: ALL }];
    expect(await latentsOf(plain, { negativePrompt: 'the dog', regions: dog })).not.toEqual(alone);
  });

  it('is told its sizes', async () => {
    const alone = await latentsOf(plain, {});
    const own = { originalSize: { width: 32, height: 32 }, crop: { left: 0, top: 0 } };
    expect(await latentsOf(plain, own)).toEqual(alone);
    const others = [
      await latentsOf(plain, { originalSize: { width: 32, height: 48 } }),
      await latentsOf(plain, { crop: { left: 8, top: 0 } }),
      await latentsOf(plain, { crop: { left: 0, top: 8 } }),
      await latentsOf(plain, { negativeSizes: { width: 24, height: 32 } }),
    ];
    expect(new Set([alone, ...others].map((latents) => latents[0])).size).toBe(5);
    await expect(latentsOf(plain, { crop: { left: -1, top: 0 } })).rejects.toThrow(UsageError);
    await expect(latentsOf(plain, { originalSize: { width: 1.5, height: 1 } })).rejects.toThrow(
      /original size: expected whole numbers of 0 … 65536/,
    );
  });

  it('with words of one vector per cross-attention reads each in its layer', async () => {
    const layers = base.parts.layers.contextCount;
    const random = new TorchGenerator(5);
    const rows = new Map(
      [...base.parts.textEncoders].map(([id, { config }]) => [id, random.randn(config.hiddenSize)] as const),
    );
    const concept = (count: number, change = 0): Concept => ({
      path: 'words',
      format: 'ed-lora',
      layers: new Map(),
      metadata: new Map(),
      tokens: [
        {
          word: '<w>',
          embeddings: new Map(
            [...rows].map(([id, row]) => {
              const all = new Float32Array(count * row.length);
              for (let i = 0; i < count; i++) all.set(row, i * row.length);
              all[all.length - 1]! += change;
              return [id, float32Tensor('<w>', [count, row.length], all)] as const;
            }),
          ),
        },
      ],
    });
    const drawn = (own: Concept) =>
      drawnWith(
        { vocabulary: bindConcepts(base.parts.tokenizers, [own], layers) },
        { prompt: 'a photo of <w>' },
      );
    const one = await drawn(concept(1));
    expect(await drawn(concept(layers))).toBeAllClose(one, { rtol: 0, atol: 1e-5 });
    expect(await drawn(concept(layers, 1))).not.toEqual(one);
  });

  it('whose parts all have a LoRA is the one with it', async () => {
    const { concepts } = await openSceneModel({
      base: model,
      concepts: [],
      loras: [
        {
          path: familiesPath('sdxl', 'lora', 'kohya_sgm_names.safetensors'),
          unetStrength: 1,
          textEncoderStrength: 1,
        },
      ],
    });
    // The prompt's vector is the context's, whichever region reads the prompt: of the UNet alone, then.
    const deltas = new Map([...concepts[0]!.deltas].filter(([id]) => id.startsWith('unet:')));
    const half = (left: number): Region['shape'] => ({
      kind: 'box',
      box: { top: 0, left, bottom: 1, right: left + 0.5 },
    });
    // Strengths that differ by too little to be seen keep the places in use.
    const uses = [1, 1 + 1e-7].map((unetStrength) => [{ concept: 0, unetStrength }]);
    const regions = uses.map((concepts, i) => ({ prompt: CAT, shape: half(i / 2), concepts }));
    const everywhere = await drawnWith(
      { deltas },
      { regions: regions.map(({ concepts: _, ...region }) => region) },
    );
    // What works on sizes and pooled text has no place in the picture, and is left out.
    const { id, m, n } = base.parts.layers.get('unet:add_embedding.linear_1')!;
    const ones = (rows: number, cols: number) => matrix(rows, cols, new Float64Array(rows * cols).fill(1));
    const more = new Map([...deltas, [id, lowRank(ones(m, 1), ones(1, n))] as const]);
    const placed = await drawnWith({ placedDeltas: [more] }, { regions, concepts: uses[0]! });
    expect(placed).toBeAllClose(everywhere, { rtol: 0, atol: 2e-3 });
    expect(everywhere).not.toEqual(await latentsOf(plain, {}));
  });

  it('is guided by a ControlNet that reads pooled text and sizes too', async () => {
    const folder = scratch('controlnet');
    mkdirSync(folder);
    const { up_block_types: _, ...unet } = JSON.parse(
      readFileSync(path.join(model, 'unet', 'config.json'), 'utf8'),
    ) as Record<string, unknown>;
    const json = {
      ...unet,
      _class_name: 'ControlNetModel',
      conditioning_embedding_out_channels: [4, 8, 8, 8],
    };
    const config = controlNetSchema.parse(json);
    const { source, asked } = randomWeights();
    const size = { batch: 1, latentHeight: 4, latentWidth: 4, tokens: 77 };
    buildControlNet(source, config, size);
    buildConditionEmbedding(source, config, { imageHeight: 32, imageWidth: 32 });
    writeFileSync(path.join(folder, 'config.json'), JSON.stringify(json));
    await writeSafetensors(path.join(folder, 'diffusion_pytorch_model.safetensors'), [...asked.values()]);
    const controlNet = await openControlNet(folder);
    const picture = { width: 32, height: 32, data: new Uint8Array(32 * 32 * 3).fill(200) };
    const guided = await latentsOf(plain, { controls: [{ controlNet, picture }] });
    expect(guided.every(Number.isFinite)).toBe(true);
    expect(guided).not.toEqual(await latentsOf(plain, {}));
    const off = await latentsOf(plain, { controls: [{ controlNet, picture, strength: 0 }] });
    expect(off).toEqual(await latentsOf(plain, {}));
    const other = { ...controlNet, config: { ...config, unet: { ...config.unet, addedInputs: undefined } } };
    await expect(latentsOf(plain, { controls: [{ controlNet: other, picture }] })).rejects.toThrow(
      /expected \d+ numbers beside the timestep, .* got none; a ControlNet for another family\?/,
    );
  });

  it('leaves out layers of both text encoders', async () => {
    expect(await drawnWith({ clipSkip: 1 }, {})).not.toEqual(await latentsOf(plain, {}));
  });
});

describe('a scene', () => {
  const scene = (more: object) => normalScene({ base: model, prompt: CAT, ...more });
  it('keeps that there is no negative prompt, and the sizes it tells', async () => {
    const planned = await planScene(scene({ originalSize: [128, 64], crop: [3, 4] }));
    expect(planned.request).toMatchObject({
      originalSize: { width: 128, height: 64 },
      crop: { left: 3, top: 4 },
    });
    expect(planned.scene.negative).toBeUndefined();
    expect(planned.scene.sampler).toBe('euler');
    expect(planned.notes).toEqual([]);
    expect((await planScene(scene({ negative: '' }))).scene.negative).toBe('');
  });

  it('says that sizes change nothing where no model reads them', async () => {
    const { notes, scene: complete } = await planScene(
      normalScene({ base: familiesPath('sd2', 'model'), prompt: CAT, crop: [0, 0] }),
    );
    expect(notes).toEqual(['`crop` has no effect: this model reads no sizes']);
    expect(complete).toMatchObject({ negative: '', sampler: 'dpmpp-2m' });
  });
});
