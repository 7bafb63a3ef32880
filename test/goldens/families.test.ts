/** Text encoders, UNet and autoencoder of SDXL and SD 2.x against transformers and diffusers, from folders and single files. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RawTensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildTextEncoder, TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { paddedIds } from '../../src/models/families/prompt-ids.ts';
import type { Network } from '../../src/models/network.ts';
import { crossAttentionNames } from '../../src/models/unet/structure.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { buildVaeDecoder } from '../../src/models/vae/decoder.ts';
import { buildVaeEncoder } from '../../src/models/vae/encoder.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import type { LoadedGraph } from '../../src/runtime/runtime.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { familyJson, familySingleFile, GOLDEN_FAMILIES, TOLERANCE } from '../support/golden-families.ts';
import { Golden } from '../support/golden-file.ts';
import { familiesPath } from '../support/goldens.ts';

interface TextJson {
  prompts: string[];
  hidden_states_of_prompts: number[];
  tokenizers: Record<string, { pad_id: number; input_ids: number[][]; untruncated_ids: number[][] }>;
}

const sessions = new Map<unknown, LoadedGraph>();
afterAll(async () => {
  for (const session of sessions.values()) await session.dispose();
});
/** @param key networks of one key are one */
async function run(
  { graph }: Network,
  feeds: Record<string, Tensor>,
  key: unknown = graph,
): Promise<Record<string, Tensor>> {
  const session = sessions.get(key) ?? (await defaultRuntime().load(graph, 'once'));
  sessions.set(key, session);
  return session.run(feeds);
}
const bytes = (tensor: RawTensor): Uint8Array => new Uint8Array(readFloat32(tensor).buffer);
const numbers = (tensor: Tensor | undefined): Float32Array => tensor!.data as Float32Array;

describe.each(GOLDEN_FAMILIES)('%s', (family) => {
  let folder: Checkpoint;
  let single: Checkpoint;
  beforeAll(async () => {
    folder = await openCheckpoint(familiesPath(family, 'model'));
    single = await openCheckpoint(await familySingleFile(family), {
      configFolder: familiesPath(family, 'model'),
    });
  });
  const text = familyJson<TextJson>(family, 'text.json');

  it('is recognised, in both layouts', () => {
    expect([folder.family.name, single.family.name]).toEqual([family, family]);
  });

  it('has the same numbers in a single file', () => {
    const weights = ({ parts }: Checkpoint) => [...parts.textEncoders, ['unet', parts.unet] as const];
    const pairs = weights(folder).map((own, i) => [own, weights(single)[i]!] as const);
    for (const [[id, { layers, weights: ours }], [otherId, { weights: theirs }]] of pairs) {
      expect(otherId).toBe(id);
      for (const layerName of layers.keys()) {
        const name = `${layerName}.weight`;
        const [a, b] = [ours.get(name), theirs.get(name)];
        if (a === undefined) throw new Error(`${id} has no ${name}`);
        expect(Buffer.compare(bytes(b!), bytes(a)), name).toBe(0);
      }
    }
  });

  it('cuts prompts into the ids of every tokenizer', () => {
    const { textEncoders, tokenizers } = folder.parts;
    expect([...tokenizers.keys()].map((id) => id.replace('text_encoder', 'tokenizer'))).toEqual(
      Object.keys(text.tokenizers),
    );
    for (const [id, { tokenizer }] of textEncoders) {
      const golden = text.tokenizers[id.replace('text_encoder', 'tokenizer')]!;
      expect(tokenizer.padId).toBe(golden.pad_id);
      expect(text.prompts.map((prompt) => tokenizer.encodePadded(prompt).ids)).toEqual(golden.input_ids);
      expect(text.prompts.map((prompt) => tokenizer.encode(prompt))).toEqual(golden.untruncated_ids);
    }
  });

  it('gives every state of every text encoder', async () => {
    const golden = await Golden.open(familiesPath(family, 'text.safetensors'));
    const which = text.hidden_states_of_prompts;
    for (const [id, { weights, config, tokenizer }] of folder.parts.textEncoders) {
      const ids = text.prompts.map((prompt) => tokenizer.encodePadded(prompt).ids);
      const size = { batch: ids.length, tokens: 77 };
      const network = buildTextEncoder(weights, config, size, { hiddenStates: true });
      const out = await run(network, { token_embeddings: new TokenEmbeddings(weights, config).lookUp(ids) });
      expect(numbers(out.last_hidden_state)).toBeAllClose(
        golden.values(`${id}/last_hidden_state`),
        TOLERANCE,
      );
      const states = golden.tensor(`${id}/hidden_states`);
      const row = 77 * config.hiddenSize;
      for (let k = 0; k < states.shape[0]!; k++) {
        const own = numbers(out[`hidden_states.${k}`]);
        which.forEach((prompt, i) => {
          const at = (k * which.length + i) * row;
          expect(own.subarray(prompt * row, (prompt + 1) * row)).toBeAllClose(
            states.data.subarray(at, at + row),
            TOLERANCE,
          );
        });
      }
    }
  });

  it.each([
    ['folder', () => folder],
    ['single file', () => single],
  ] as const)('reads prompts as the pipeline does, from a %s', async (_, model) => {
    const golden = await Golden.open(familiesPath(family, 'text.safetensors'));
    const { family: own, parts } = model();
    const ids = text.prompts.map((prompt) => paddedIds(parts.tokenizers, prompt));
    const { states, pooled } = await own.base.tokenEncoder(parts).encode(ids);
    expect(states.shape).toEqual(golden.raw('context').shape);
    expect(states.data).toBeAllClose(golden.values('context'), TOLERANCE);
    expect(pooled === undefined).toBe(!golden.has('pooled'));
    if (pooled !== undefined) expect(pooled.data).toBeAllClose(golden.values('pooled'), TOLERANCE);
    if (!golden.has('context_clip_skip_1')) return;
    const skipped = await own.base.tokenEncoder(parts, { clipSkip: 1 }).encode(ids);
    expect(skipped.states.data).toBeAllClose(golden.values('context_clip_skip_1'), TOLERANCE);
    expect(skipped.pooled!.data).toEqual(pooled!.data);
  });

  /** One pass; pooled text and sizes where the UNet reads them. */
  async function predict(
    { parts }: Checkpoint,
    sample: Tensor<Float32Array>,
    timesteps: ArrayLike<number>,
    context: Tensor<Float32Array>,
    added: Record<string, Tensor<Float32Array>>,
  ): Promise<Float32Array> {
    const [batch, , latentHeight, latentWidth] = sample.shape as [number, number, number, number];
    const { config, weights } = parts.unet;
    const size = { batch, latentHeight, latentWidth, tokens: context.shape.at(-2)! };
    const network = buildUnet(weights, config, size, { layerwiseContext: context.shape.length === 4 });
    const timestep = float32(
      [batch],
      Float32Array.from({ length: batch }, (_, i) => timesteps[i % timesteps.length]!),
    );
    const feeds = { sample, timestep, encoder_hidden_states: context, ...added };
    const { noise_pred } = await run(network, feeds, `${weights.label} ${sample.shape} ${context.shape}`);
    return numbers(noise_pred);
  }
  const addedOf = (
    golden: Golden,
    pooled: string,
    ids: Tensor<Float32Array>,
  ): Record<string, Tensor<Float32Array>> =>
    golden.has(pooled) ? { text_embeds: golden.tensor(pooled), time_ids: ids } : {};

  it('predicts as diffusers does', async () => {
    const golden = await Golden.open(familiesPath(family, 'unet.safetensors'));
    const reads = golden.has('pooled');
    const sizes = (i: number, times: number) => (reads ? golden.row('time_ids', i, times) : float32([0]));
    const timesteps = golden.values('timesteps');
    const cases: [string, string, ArrayLike<number>, string, Record<string, Tensor<Float32Array>>][] = [];
    timesteps.forEach((timestep, i) => {
      cases.push([`out_t${i}`, 'sample', [timestep], 'ctx', addedOf(golden, 'pooled', sizes(0, 2))]);
      cases.push([
        `out_rect_t${i}`,
        'sample_rect',
        [timestep],
        'ctx_rect',
        addedOf(golden, 'pooled_rect', sizes(1, 1)),
      ]);
    });
    const first = [timesteps[0]!];
    cases.push([
      'out_per_sample_t',
      'sample',
      golden.values('timesteps_per_sample'),
      'ctx',
      addedOf(golden, 'pooled', sizes(0, 2)),
    ]);
    cases.push(['out_odd_t0', 'sample_odd', first, 'ctx_rect', addedOf(golden, 'pooled_rect', sizes(1, 1))]);
    if (reads) {
      for (let i = 0; i < golden.raw('time_ids').shape[0]!; i++) {
        cases.push([`out_time_ids_${i}`, 'sample', first, 'ctx', addedOf(golden, 'pooled', sizes(i, 2))]);
      }
      const each = golden.tensor('time_ids');
      const two = float32([2, 6], each.data.slice(6, 18));
      cases.push(['out_time_ids_per_sample', 'sample', first, 'ctx', addedOf(golden, 'pooled', two)]);
      cases.push(['out_pooled_other', 'sample', first, 'ctx', addedOf(golden, 'pooled_other', sizes(0, 2))]);
    }
    for (const [i, [name, sample, at, context, added]] of cases.entries()) {
      const out = await predict(folder, golden.tensor(sample), at, golden.tensor(context), added);
      expect(out, name).toBeAllClose(golden.values(name), TOLERANCE);
      if (i > 0) continue;
      expect(await predict(single, golden.tensor(sample), at, golden.tensor(context), added)).toEqual(out);
    }
  });

  it('gives every cross-attention a text of its own, in the declared order', async () => {
    const { layers } = familyJson<{ layers: string[] }>(family, 'cross_attention_order.json');
    expect(crossAttentionNames(folder.parts.unet.config)).toEqual(layers);
    expect(folder.parts.layers.contextCount).toBe(layers.length);
    const golden = await Golden.open(familiesPath(family, 'unet_layerwise.safetensors'));
    for (const [kind, out] of [
      ['', 'out'],
      ['_rect', 'out_rect'],
    ] as const) {
      const added = golden.has('time_ids')
        ? addedOf(golden, `pooled${kind}`, golden.tensor(`time_ids${kind}`))
        : {};
      const context = golden.tensor(`ctx_layers${kind}`);
      const sample = golden.tensor(`sample${kind}`);
      const given = await predict(folder, sample, golden.values('timestep'), context, added);
      expect(given).toBeAllClose(golden.values(out), TOLERANCE);
    }
  });

  it('encodes and decodes pictures', async () => {
    const golden = await Golden.open(familiesPath(family, 'vae.safetensors'));
    const { config, weights } = await single.parts.vae();
    expect(config.scalingFactor).toBe(Number(golden.file.metadata.get('scaling_factor')));
    for (const kind of ['', '_small']) {
      const image = golden.tensor(`image${kind}`);
      const [batch, , imageHeight, imageWidth] = image.shape as [number, number, number, number];
      const network = buildVaeEncoder(weights, config, { batch, imageHeight, imageWidth });
      const { mean, logvar } = await run(network, { image });
      expect(numbers(mean)).toBeAllClose(golden.values(`mean${kind}`), TOLERANCE);
      expect(numbers(logvar)).toBeAllClose(golden.values(`logvar${kind}`), TOLERANCE);
    }
    const latents = golden.tensor('latents');
    const [batch, , latentHeight, latentWidth] = latents.shape as [number, number, number, number];
    const decoder = buildVaeDecoder(weights, config, { batch, latentHeight, latentWidth });
    const scaled = float32(
      latents.shape,
      latents.data.map((value) => value / config.scalingFactor),
    );
    expect(numbers((await run(decoder, { latents: scaled })).image)).toBeAllClose(
      golden.values('decoded_latents_over_scaling'),
      TOLERANCE,
    );
  });
});
