/** Text encoder, UNet and VAE against transformers and diffusers on the miniature with random weights. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { memoryTensor, type RawTensor, readFloat32 } from '../../src/formats/raw-tensor.ts';
import { GramAccumulator } from '../../src/linalg/gram.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { buildTextEncoder, pooledPosition, TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import type { Network, WeightSource } from '../../src/models/network.ts';
import { crossAttentionNames } from '../../src/models/unet/structure.ts';
import { buildUnet, type UnetOptions } from '../../src/models/unet/unet.ts';
import { buildVaeDecoder } from '../../src/models/vae/decoder.ts';
import { buildVaeEncoder } from '../../src/models/vae/encoder.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import type { LoadedGraph } from '../../src/runtime/runtime.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { Golden } from '../support/golden-file.ts';
import { goldenJson, goldenPath, goldenSingleFile } from '../support/goldens.ts';

const FOLDER = 'goldens/tiny-random';
/** README of the goldens: max abs error ≤ 2e-5 + 2e-5·|x| on values of order one. */
const TOLERANCE = { rtol: 2e-5, atol: 2e-5 };

let folder: Checkpoint;
let single: Checkpoint;
beforeAll(async () => {
  folder = await openCheckpoint(goldenPath(FOLDER, 'model'));
  single = await openCheckpoint(goldenSingleFile(), {
    configFolder: goldenPath(FOLDER, 'model'),
  });
});

const sessions: LoadedGraph[] = [];
afterAll(async () => {
  for (const session of sessions) await session.dispose();
});
async function run({ graph }: Network, feeds: Record<string, Tensor>): Promise<Record<string, Tensor>> {
  const session = await defaultRuntime().load(graph, 'every-step');
  sessions.push(session);
  return session.run(feeds);
}
const both = [
  ['diffusers folder', () => folder],
  ['single file', () => single],
] as const;

describe.each(both)('text encoder from a %s', (_, model) => {
  async function encode(
    ids: Tensor<Float32Array>,
    options: { clipSkip?: number; hiddenStates?: boolean } = {},
  ) {
    const { config, weights } = model().parts.textEncoder;
    const [batch, tokens] = ids.shape as [number, number];
    const rows = Array.from({ length: batch }, (_, b) => [
      ...ids.data.subarray(b * tokens, (b + 1) * tokens),
    ]);
    const network = buildTextEncoder(weights, config, { batch, tokens }, options);
    return run(network, { token_embeddings: new TokenEmbeddings(weights, config).lookUp(rows) });
  }

  it('gives every hidden state, the last one and the pooled one', async () => {
    const golden = await Golden.open(goldenPath(FOLDER, 'clip.safetensors'));
    const ids = golden.tensor('input_ids');
    const out = await encode(ids, { hiddenStates: true });
    const all = golden.raw('hidden_states').shape;
    const size = all.slice(1).reduce((a, b) => a * b, 1);
    for (let k = 0; k < all[0]!; k++) {
      const expected = golden.values('hidden_states').subarray(k * size, (k + 1) * size);
      expect(out[`hidden_states.${k}`]!.data as Float32Array).toBeAllClose(expected, TOLERANCE);
    }
    const last = out.last_hidden_state!.data as Float32Array;
    expect(last).toBeAllClose(golden.values('last_hidden_state'), TOLERANCE);
    const [batch, tokens, width] = golden.raw('last_hidden_state').shape as [number, number, number];
    for (let b = 0; b < batch; b++) {
      const row = [...ids.data.subarray(b * tokens, (b + 1) * tokens)];
      const start = (b * tokens + pooledPosition(row, model().parts.textEncoder.config.eosTokenId)) * width;
      const expected = golden.values('pooled').subarray(b * width, (b + 1) * width);
      expect(last.subarray(start, start + width)).toBeAllClose(expected, TOLERANCE);
    }
  });

  it('skips layers and takes short prompts', async () => {
    const golden = await Golden.open(goldenPath(FOLDER, 'clip.safetensors'));
    for (const [name, skip] of golden.cases(/^clip_skip_(\d+)$/)) {
      const out = await encode(golden.tensor('input_ids'), { clipSkip: Number(skip) });
      expect(out.last_hidden_state!.data as Float32Array).toBeAllClose(golden.values(name), TOLERANCE);
    }
    const short = await encode(golden.tensor('short_input_ids'));
    expect(short.last_hidden_state!.data as Float32Array).toBeAllClose(
      golden.values('short_last_hidden_state'),
      TOLERANCE,
    );
  });
});

async function runUnet(
  { config, weights }: Checkpoint['parts']['unet'],
  feeds: { sample: Tensor<Float32Array>; timestep: Float32Array; context: Tensor<Float32Array> },
  options: UnetOptions = {},
  extra: Record<string, Tensor> = {},
): Promise<Record<string, Tensor> & { network: Network }> {
  const [batch, , latentHeight, latentWidth] = feeds.sample.shape as [number, number, number, number];
  const network = buildUnet(
    weights,
    config,
    { batch, latentHeight, latentWidth, tokens: feeds.context.shape.at(-2)! },
    { layerwiseContext: feeds.context.shape.length === 4, ...options },
  );
  const timestep = float32(
    [batch],
    feeds.timestep.length === 1 ? Array(batch).fill(feeds.timestep[0]) : feeds.timestep,
  );
  const out = await run(network, {
    sample: feeds.sample,
    timestep,
    encoder_hidden_states: feeds.context,
    ...extra,
  });
  return Object.assign(out, { network });
}

describe.each(both)('UNet from a %s', (_, model) => {
  it('predicts as diffusers does, at every timestep and size', async () => {
    const golden = await Golden.open(goldenPath(FOLDER, 'unet.safetensors'));
    const timesteps = golden.values('timesteps');
    const cases = golden.cases(/^out(_rect|_odd)?_t(\d+)$/);
    expect(cases.length).toBeGreaterThan(0);
    for (const [name, suffix = '', index] of cases) {
      const { noise_pred } = await runUnet(model().parts.unet, {
        sample: golden.tensor(`sample${suffix}`),
        timestep: timesteps.subarray(Number(index), Number(index) + 1),
        context: golden.tensor(suffix === '' ? 'ctx' : 'ctx_rect'),
      });
      expect(noise_pred!.data as Float32Array).toBeAllClose(golden.values(name), TOLERANCE);
    }
  });

  it('takes a timestep per sample', async () => {
    const golden = await Golden.open(goldenPath(FOLDER, 'unet.safetensors'));
    const { noise_pred } = await runUnet(model().parts.unet, {
      sample: golden.tensor('sample'),
      timestep: golden.values('timesteps_per_sample'),
      context: golden.tensor('ctx'),
    });
    expect(noise_pred!.data as Float32Array).toBeAllClose(golden.values('out_per_sample_t'), TOLERANCE);
  });

  it('gives each cross-attention its own context', async () => {
    const golden = await Golden.open(goldenPath(FOLDER, 'unet_layerwise.safetensors'));
    for (const suffix of ['', '_rect']) {
      const { noise_pred } = await runUnet(model().parts.unet, {
        sample: golden.tensor(`sample${suffix}`),
        timestep: golden.values('timestep'),
        context: golden.tensor(`ctx4${suffix}`),
      });
      expect(noise_pred!.data as Float32Array).toBeAllClose(golden.values(`out${suffix}`), TOLERANCE);
    }
    const plain = await runUnet(model().parts.unet, {
      sample: golden.tensor('sample'),
      timestep: golden.values('timestep'),
      context: golden.tensor('ctx'),
    });
    expect(plain.noise_pred!.data as Float32Array).toBeAllClose(golden.values('out_ctx3_repeat'), TOLERANCE);
  });
});

describe('structure', () => {
  it('walks cross-attentions in the reference order', () => {
    const { layers } = goldenJson<{ layers: string[] }>(FOLDER, 'cross_attention_order.json');
    expect(crossAttentionNames(folder.parts.unet.config)).toEqual(layers);
  });

  it('lists every layer that can be changed with the shape of the checkpoint', () => {
    const listed = new Set<string>();
    for (const { component, layerName, m, n, kernel } of folder.parts.layers) {
      const part = component === 'unet' ? folder.parts.unet : folder.parts.textEncoder;
      listed.add(`${component}:${layerName}.weight`);
      const area = kernel === null ? 1 : kernel[0] * kernel[1];
      expect(part.weights.get(`${layerName}.weight`)!.shape, layerName).toEqual([
        m,
        n / area,
        ...(kernel ?? []),
      ]);
    }
    // Whatever else is there is a norm or an embedding.
    const others = [...folder.parts.unet.file.tensors.values()].filter(
      ({ name, shape }) => shape.length > 1 && !listed.has(`unet:${name}`),
    );
    expect(others.map(({ name }) => name)).toEqual([]);
  });
});

/** A Gram matrix as it is summed. */
function fromStrips(values: Float64Array, width: number): Float64Array {
  const sum = new GramAccumulator(width);
  sum.addStrips(values, 1);
  return sum.toMatrix().data;
}

describe('probes', () => {
  it('return inputs, outputs and Gram matrices of UNet layers', async () => {
    const taps = await Golden.open(goldenPath(FOLDER, 'taps.safetensors'));
    const run1 = await Golden.open(goldenPath(FOLDER, 'unet_layerwise.safetensors'));
    const layers = taps.cases(/^unet\.(.+)\/gram$/).map(([, layer]) => layer!);
    const known = layers.filter((layer) => folder.parts.unet.layers.has(layer));
    expect(known).toEqual(layers);
    const out = await runUnet(
      folder.parts.unet,
      { sample: run1.tensor('sample'), timestep: run1.values('timestep'), context: run1.tensor('ctx4') },
      { probes: { inputs: layers, outputs: layers, features: layers } },
    );
    for (const layer of layers) {
      const { inputs, outputs, features } = out.network.probes;
      const golden = `unet.${layer}`;
      const { output, width } = features.get(layer)!;
      const gram = fromStrips(out[output]!.data as Float64Array, width);
      expect(gram, layer).toBeAllClose(taps.values(`${golden}/gram`), { rtol: 1e-5 });
      // Of the rows in float64: what float32 rounds off are whole eigenvalues.
      const x = out[inputs.get(layer)!]!;
      const sum = new GramAccumulator(x.shape[1]!);
      sum.addRows(x.data as Float32Array);
      expect(gram, layer).toBeAllClose(sum.toMatrix().data, { rtol: 1e-13 });
      for (const [kind, probe] of [
        ['input', inputs],
        ['output', outputs],
      ] as const) {
        // Large tensors are stored for the first batch element only.
        const expected = taps.values(`${golden}/${kind}`);
        const actual = (out[probe.get(layer)!]!.data as Float32Array).subarray(0, expected.length);
        expect(actual, `${layer} ${kind}`).toBeAllClose(expected, TOLERANCE);
      }
    }
  });

  it('return those of the text encoder', async () => {
    const taps = await Golden.open(goldenPath(FOLDER, 'taps.safetensors'));
    const clip = await Golden.open(goldenPath(FOLDER, 'clip.safetensors'));
    const ids = clip.tensor('input_ids');
    const [batch, tokens] = ids.shape as [number, number];
    const layers = taps.cases(/^text_encoder\.(.+)\/gram$/).map(([, layer]) => layer!);
    const { config, weights } = folder.parts.textEncoder;
    const network = buildTextEncoder(
      weights,
      config,
      { batch, tokens },
      { probes: { features: layers, inputs: layers } },
    );
    const rows = Array.from({ length: batch }, (_, b) => [
      ...ids.data.subarray(b * tokens, (b + 1) * tokens),
    ]);
    const out = await run(network, { token_embeddings: new TokenEmbeddings(weights, config).lookUp(rows) });
    for (const layer of layers) {
      const { output, width } = network.probes.features.get(layer)!;
      const gram = fromStrips(out[output]!.data as Float64Array, width);
      expect(gram, layer).toBeAllClose(taps.values(`text_encoder.${layer}/gram`), { rtol: 1e-5 });
      const expected = taps.values(`text_encoder.${layer}/input`);
      const actual = out[network.probes.inputs.get(layer)!]!.data as Float32Array;
      expect(actual.subarray(0, expected.length), layer).toBeAllClose(expected, TOLERANCE);
    }
  });

  it('return the rows in place of a Gram matrix where that is wanted', async () => {
    const run1 = await Golden.open(goldenPath(FOLDER, 'unet_layerwise.safetensors'));
    const layers = [...folder.parts.unet.layers.keys()].filter((name) => name.endsWith('attn1.to_q'));
    const keepRows = (rows: number, width: number) => rows < width;
    const out = await runUnet(
      folder.parts.unet,
      { sample: run1.tensor('sample'), timestep: run1.values('timestep'), context: run1.tensor('ctx4') },
      { probes: { inputs: layers, features: layers, keepRows } },
    );
    const { inputs, features } = out.network.probes;
    const forms = new Set<string>();
    for (const layer of layers) {
      const { form, output, rows, input } = features.get(layer)!;
      const x = out[inputs.get(layer)!]!;
      expect([input, rows, form]).toEqual([
        layer,
        x.shape[0]!,
        keepRows(rows, x.shape[1]!) ? 'rows' : 'gram',
      ]);
      if (form === 'rows') expect(out[output]!.data).toEqual(x.data);
      forms.add(form);
    }
    expect(forms.size).toBe(2);
  });

  it('of layers that do not exist are refused by name', () => {
    const { config, weights } = folder.parts.unet;
    const size = { batch: 1, latentHeight: 8, latentWidth: 8, tokens: 4 };
    expect(() => buildUnet(weights, config, size, { probes: { features: ['nowhere.to_q'] } })).toThrow(
      'nowhere.to_q',
    );
    expect(() => buildUnet(weights, config, size, { loraRanks: new Map([['conv_norm_out', 4]]) })).toThrow(
      'conv_norm_out',
    );
  });
});

describe.each(both)('VAE from a %s', (_, model) => {
  it('encodes and decodes', async () => {
    const golden = await Golden.open(goldenPath(FOLDER, 'vae.safetensors'));
    const { config, weights } = await model().parts.vae();
    for (const suffix of ['', '_small']) {
      const image = golden.tensor(`image${suffix}`);
      const [batch, , imageHeight, imageWidth] = image.shape as [number, number, number, number];
      const encoded = await run(buildVaeEncoder(weights, config, { batch, imageHeight, imageWidth }), {
        image,
      });
      const mean = encoded.mean!.data as Float32Array;
      expect(mean).toBeAllClose(golden.values(`mean${suffix}`), TOLERANCE);
      const clamped = (encoded.logvar!.data as Float32Array).map((value) =>
        Math.min(20, Math.max(-30, value)),
      );
      expect(clamped).toBeAllClose(golden.values(`logvar${suffix}`), TOLERANCE);
      const latents = golden.tensor(suffix === '' ? 'latents' : `mean${suffix}`);
      const [, , latentHeight, latentWidth] = latents.shape as [number, number, number, number];
      const { image: decoded } = await run(
        buildVaeDecoder(weights, config, { batch, latentHeight, latentWidth }),
        { latents },
      );
      expect(decoded!.data as Float32Array).toBeAllClose(golden.values(`decoded${suffix}`), TOLERANCE);
    }
  });
});

describe('epsilons of the norms', () => {
  /** Parameters whose name contains one of `parts`, times `factor`. */
  function scaled(weights: WeightSource, parts: readonly string[], factor: number): WeightSource {
    const cache = new Map<string, RawTensor>();
    return {
      label: weights.label,
      get: (name) => {
        const raw = weights.get(name);
        if (raw === undefined || !parts.some((part) => name.includes(part))) return raw;
        let result = cache.get(name);
        if (result === undefined) {
          const data = readFloat32(raw).map((value) => value * factor);
          result = memoryTensor(name, 'F32', raw.shape, new Uint8Array(data.buffer));
          cache.set(name, result);
        }
        return result;
      },
    };
  }
  interface Probe {
    scale: string;
    scaled_parameters_contain: Record<'unet' | 'vae' | 'text_encoder', string[]>;
  }
  /** README of the goldens: max abs error 3e-4; a wrong epsilon changes an output by 1.5e-3 or more. */
  const ATOL = { rtol: 0, atol: 3e-4 };

  it('are the library’s in all three networks', async () => {
    const { scale, scaled_parameters_contain: parts } = goldenJson<Probe>(FOLDER, 'eps_probe.json');
    const factor = 2 ** Number(/^2\^(-?\d+)$/.exec(scale)![1]);
    const expected = await Golden.open(goldenPath(FOLDER, 'eps_probe.safetensors'));
    const unet = await Golden.open(goldenPath(FOLDER, 'unet.safetensors'));
    const { noise_pred } = await runUnet(
      { ...folder.parts.unet, weights: scaled(folder.parts.unet.weights, parts.unet, factor) },
      {
        sample: unet.tensor('sample'),
        timestep: unet.values('timesteps').subarray(0, 1),
        context: unet.tensor('ctx'),
      },
    );
    expect(noise_pred!.data as Float32Array).toBeAllClose(expected.values('unet_out'), ATOL);

    const vae = await Golden.open(goldenPath(FOLDER, 'vae.safetensors'));
    const part = await folder.parts.vae();
    const small = scaled(part.weights, parts.vae, factor);
    const image = vae.tensor('image');
    const [batch, , imageHeight, imageWidth] = image.shape as [number, number, number, number];
    const encoded = await run(buildVaeEncoder(small, part.config, { batch, imageHeight, imageWidth }), {
      image,
    });
    expect(encoded.mean!.data as Float32Array).toBeAllClose(expected.values('vae_mean'), ATOL);
    const latents = vae.tensor('latents');
    const [, , latentHeight, latentWidth] = latents.shape as [number, number, number, number];
    const decoded = await run(buildVaeDecoder(small, part.config, { batch, latentHeight, latentWidth }), {
      latents,
    });
    expect(decoded.image!.data as Float32Array).toBeAllClose(expected.values('vae_decoded'), ATOL);

    const clip = await Golden.open(goldenPath(FOLDER, 'clip.safetensors'));
    const { config, weights } = folder.parts.textEncoder;
    const ids = clip.tensor('input_ids');
    const [prompts, tokens] = ids.shape as [number, number];
    const rows = Array.from({ length: prompts }, (_, b) => [
      ...ids.data.subarray(b * tokens, (b + 1) * tokens),
    ]);
    const quiet = scaled(weights, parts.text_encoder, factor);
    const out = await run(buildTextEncoder(quiet, config, { batch: prompts, tokens }), {
      token_embeddings: new TokenEmbeddings(quiet, config).lookUp(rows),
    });
    expect(out.last_hidden_state!.data as Float32Array).toBeAllClose(
      expected.values('clip_last_hidden_state'),
      ATOL,
    );
  });
});
