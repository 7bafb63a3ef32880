/**
 * A training step against PyTorch: losses, every gradient and AdamW, on the miniature with random weights. Cases, tensors
 * and shapes come from the index and the files.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Concept } from '../../src/concepts/concept.ts';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { type BoundVocabulary, bindConcepts } from '../../src/concepts/prompt.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, readFloat32, readFloat64 } from '../../src/formats/raw-tensor.ts';
import type { TensorFile } from '../../src/formats/tensor-file.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import { TokenEmbeddings } from '../../src/models/clip/text-encoder.ts';
import { type LayerId, layerId, within } from '../../src/models/families/layer-table.ts';
import { loraDownInput, loraUpInput } from '../../src/models/network.ts';
import { crossAttentionNames } from '../../src/models/unet/structure.ts';
import { adamwState, adamwStep } from '../../src/optim/adamw.ts';
import { linearRate } from '../../src/optim/learning-rate.ts';
import { checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { type NoiseSchedule, noiseSchedule } from '../../src/sampling/noise-schedule.ts';
import { float32, sizeOf, type Tensor } from '../../src/tensor/tensor.ts';
import { meanRowNorm } from '../../src/training/concept-embeddings.ts';
import type { FactorGradients, ModelFactors } from '../../src/training/factor-gradients.ts';
import {
  maskedWeights,
  noisyBatch,
  type PredictionType,
  plainWeights,
} from '../../src/training/loss-weights.ts';
import { type StepBatch, type StepPlan, type StepResult, TrainingStep } from '../../src/training/step.ts';
import { relativeError } from '../support/close.ts';
import { goldenJson, goldenPath } from '../support/goldens.ts';
import { tokenOf, vectorsOf } from '../support/tokens.ts';

const FOLDER = 'goldens-fusion/training';
/** README of the goldens: gradients 1e-4 relative per tensor (L2); losses are sums of the same size. */
const GRADIENT_TOLERANCE = 1e-4;
const LOSS_TOLERANCE = 2e-5;

interface Cases {
  readonly captions: readonly (readonly string[])[];
  readonly prior_caption: string;
  readonly lora_start: string;
  readonly lora_alpha: number;
  readonly attn_reg_weight: number;
  readonly cases: Record<
    string,
    {
      readonly note?: string;
      readonly first_token_detached?: boolean;
      readonly loss: number;
      readonly instance?: number;
      readonly prior?: number;
      readonly prior_weight?: number;
      readonly prompts?: readonly string[];
      readonly tokens?: readonly string[];
      readonly captions?: readonly string[];
      readonly token_init?: string;
      readonly threshold?: number;
      readonly log?: readonly { loss: number; lrs: number[]; norm_mean: number; stopped: boolean }[];
      readonly lr?: { embedding: number; text_encoder: number; unet: number };
      readonly weight_decay?: number;
      readonly betas?: [number, number];
      readonly eps?: number;
    }
  >;
}
const index = goldenJson<Cases>(FOLDER, 'cases.json');
const norms = goldenJson<Record<string, number>>(FOLDER, 'norms.json');

let base: Checkpoint;
let maple: Concept;
let data: TensorFile;
let golden: TensorFile;
let schedule: NoiseSchedule;
const steps: TrainingStep[] = [];
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens-fusion/fusion/base_model'));
  maple = await loadConcept(goldenPath('goldens-fusion/fusion', index.lora_start));
  data = await openTensorFile(goldenPath(FOLDER, 'data.safetensors'));
  golden = await openTensorFile(goldenPath(FOLDER, 'grads_and_steps.safetensors'));
  schedule = noiseSchedule(await checkpointSchedule(base));
});
afterAll(async () => {
  for (const step of steps) await step.dispose();
});

const stored = (file: TensorFile, name: string): Float32Array => {
  const raw = file.tensors.get(name);
  if (raw === undefined) throw new Error(`${file.path} has no ${name}`);
  return readFloat32(raw);
};

/** Factors of a concept as feeds: copies that may be trained. */
function factorsOf(concept: Concept) {
  const feeds = {
    unet: {} as Record<string, Tensor<Float32Array>>,
    text_encoder: {} as Record<string, Tensor<Float32Array>>,
    text_encoder_2: {} as Record<string, Tensor<Float32Array>>,
  };
  const ranks = new Map<LayerId, number>();
  for (const { component, layerName, up, down, rank } of concept.layers.values()) {
    ranks.set(layerId(component, layerName), rank);
    const flat = (shape: readonly number[]): number[] => [shape[0]!, sizeOf(shape.slice(1))];
    feeds[component][loraDownInput(layerName)] = float32(flat(down.shape), readFloat32(down).slice());
    feeds[component][loraUpInput(layerName)] = float32(flat(up.shape), readFloat32(up).slice());
  }
  return { feeds, ranks };
}

/** The same tensors by layer id. */
function asFactors(feeds: ReturnType<typeof factorsOf>['feeds']): ModelFactors {
  return new Map(
    (['unet', 'text_encoder'] as const).flatMap((component) =>
      Object.keys(feeds[component]).flatMap((input) => {
        const layerName = /^(.+)\.lora_down$/.exec(input)?.[1];
        if (layerName === undefined) return [];
        const own = feeds[component];
        return [
          [
            layerId(component, layerName),
            { down: own[loraDownInput(layerName)]!, up: own[loraUpInput(layerName)]! },
          ] as const,
        ];
      }),
    ),
  );
}

/** Words with one row of zeros per layer; the rows themselves are given to `TokenEmbeddings`. */
function vocabularyOf(words: readonly string[], layers: number): BoundVocabulary {
  const width = base.parts.textEncoder.config.hiddenSize;
  const tokens = words.map((word) =>
    tokenOf(word, float32Tensor(word, [layers, width], new Float32Array(layers * width))),
  );
  const concept: Concept = {
    path: 'words',
    format: 'ed-lora',
    tokens,
    layers: new Map(),
    metadata: new Map(),
  };
  return bindConcepts(base.tokenizer, [concept], layers);
}

interface Setup {
  readonly words: readonly string[];
  readonly layers: number;
  readonly rows: Float32Array;
  readonly plan: Partial<StepPlan>;
}

function stepOf({ words, layers, rows, plan }: Setup) {
  const vocabulary = vocabularyOf(words, layers);
  const width = base.parts.textEncoder.config.hiddenSize;
  const embeddings = new TokenEmbeddings(base.parts.textEncoder.weights, base.parts.textEncoder.config, rows);
  const step = new TrainingStep(base, new Map([['text_encoder', embeddings]]), rows.length / width, {
    ranks: new Map(),
    firstTrainedId: vocabulary.tokens[0]?.ids[0] ?? null,
    layerwise: layers > 1,
    // The captions all begin with a word before the new ones.
    sharedPrefix: 2,
    attention: null,
    attentionWeight: 0,
    detachFirstToken: false,
    checkpointBlocks: false,
    ...plan,
  });
  steps.push(step);
  const prompts = (captions: readonly string[]) => captions.map((caption) => vocabulary.promptIds(caption));
  return { step, vocabulary, prompts };
}

/** Latents, noise and timesteps of one recorded step, with what they make. */
function recorded(s: number, prediction: PredictionType = 'epsilon') {
  const latents = stored(data, `step${s}|latents`);
  const timesteps = [...readFloat64(data.tensors.get(`step${s}|timesteps`)!)];
  const [rows, channels, latentHeight, latentWidth] = data.tensors.get(`step${s}|latents`)!.shape as [
    number,
    number,
    number,
    number,
  ];
  const { noisy, target } = noisyBatch(
    schedule,
    latents,
    stored(data, `step${s}|noise`),
    timesteps,
    prediction,
  );
  const cells = latentHeight * latentWidth;
  return { noisy, target, timesteps, rows, channels, cells, latentHeight, latentWidth };
}

const embeddingsOf = ({ embeddings }: StepResult) => embeddings.get('text_encoder');

function expectGradients(name: string, result: StepResult, words: readonly string[]): void {
  let compared = 0;
  const check = (key: string, actual: Float32Array): void => {
    const raw = golden.tensors.get(key);
    if (raw !== undefined) {
      expect(relativeError(actual, readFloat32(raw)), key).toBeLessThan(GRADIENT_TOLERANCE);
      compared++;
    }
    const norm = norms[key];
    if (norm === undefined) return;
    const off = Math.abs(norms2(actual) - norm);
    expect(off, `norm of ${key}`).toBeLessThanOrEqual(GRADIENT_TOLERANCE * norm);
    compared++;
  };
  for (const [part, layers] of [
    ['unet', within('unet', result.factors)],
    ['text_encoder', within('text_encoder', result.factors)],
  ] as const) {
    for (const [layer, { down, up }] of layers) {
      check(`${name}|${part}|${layer}.lora_down.weight`, down);
      check(`${name}|${part}|${layer}.lora_up.weight`, up);
    }
  }
  const size = (embeddingsOf(result)?.length ?? 0) / words.length;
  words.forEach((word, i) => {
    check(`${name}|embedding|${word}`, embeddingsOf(result)!.subarray(i * size, (i + 1) * size));
  });
  // Whatever the index and the file state of this case was met by a gradient of ours.
  const expected = [...golden.tensors.keys(), ...Object.keys(norms)].filter((key) =>
    ['unet', 'text_encoder', 'embedding'].some((part) => key.startsWith(`${name}|${part}|`)),
  );
  expect(expected.length).toBeGreaterThan(0);
  expect(compared).toBe(expected.length);
}

const norms2 = (values: Float32Array): number => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));

const loaded = new Map<string, ReturnType<typeof stepOf> & { rows: Float32Array }>();

/** ED-LoRA's cases: concept words with 16 rows, factors of the start concept. */
function edLora(plan: Partial<StepPlan> = {}) {
  const words = maple.tokens.map(({ word }) => word);
  const layers = crossAttentionNames(base.parts.unet.config).length;
  const { feeds, ranks } = factorsOf(maple);
  const rows = Float32Array.from(maple.tokens.flatMap((token) => [...readFloat32(vectorsOf(token))]));
  // One set of loaded graphs per plan; what is trained is given to every run.
  const key = JSON.stringify(plan);
  const made = loaded.get(key) ?? {
    rows,
    ...stepOf({
      words,
      layers,
      rows,
      plan: { ranks, ...plan },
    }),
  };
  loaded.set(key, made);
  made.rows.set(rows);
  const batch = (
    s: number,
    weights: 'plain' | 'mask' | 'img_mask' | 'ones' | Float32Array,
    captions: readonly string[],
    prediction: PredictionType = 'epsilon',
  ): StepBatch => {
    const { rows: count, channels, cells, ...own } = recorded(s, prediction);
    const prompts = made.prompts(captions);
    const masks = stored(data, `step${s}|mask`);
    const lossWeights =
      weights instanceof Float32Array
        ? weights
        : weights === 'plain'
          ? plainWeights(count, channels, cells)
          : weights === 'ones'
            ? maskedWeights(new Float32Array(count * cells).fill(1), count)
            : maskedWeights(stored(data, `step${s}|${weights}`), count);
    const ids = made.vocabulary.tokens.map((token) => new Set(token.ids));
    const places = prompts.map(
      (layersOf) => ids.map((own) => layersOf[0]![0]!.findIndex((id) => own.has(id))) as [number, number],
    );
    return { ...own, lossWeights, prompts, attention: { masks, words: places } };
  };
  return {
    ...made,
    words,
    feeds,
    batch,
    run: (b: StepBatch) => made.step.run(b, asFactors(feeds)),
  };
}

/** A set may leave cases out. */
const has = (name: string): boolean => index.cases[name] !== undefined;
/** Cases with attention regularisation; their note says of which kind. */
function regularised(): [name: string, fullIdentity: boolean][] {
  return Object.entries(index.cases).flatMap(([name, { note = '' }]) => {
    const kind = /reg_full_identity=(true|false)/.exec(note)?.[1];
    return kind === undefined ? [] : [[name, kind === 'true']];
  });
}

const captionsOf = (s: number): readonly string[] => index.captions[s]!;
const lossOf = (name: string): number => index.cases[name]!.loss;
const expectLoss = (actual: number, expected: number): void => {
  expect(Math.abs(actual / expected - 1)).toBeLessThan(LOSS_TOLERANCE);
};

describe('ED-LoRA', () => {
  it('starts from factors that are used undivided', () => expect(index.lora_alpha).toBe(1));

  it.runIf(has('eps_mse'))('plain noise prediction', async () => {
    const { run, batch, words } = edLora();
    const b = batch(0, 'plain', captionsOf(0));
    expect(relativeError(b.noisy, stored(golden, 'eps_mse|noisy_latents'))).toBeLessThan(1e-6);
    const result = await run(b);
    expect(result.outputs.noise_pred!.data as Float32Array).toBeAllClose(
      stored(golden, 'eps_mse|model_pred'),
      {
        rtol: 2e-5,
      },
    );
    expectLoss(result.loss, lossOf('eps_mse'));
    expectGradients('eps_mse', result, words);
  });

  it.runIf(has('masked'))('masks', async () => {
    const { run, batch, words } = edLora();
    const result = await run(batch(0, 'mask', captionsOf(0)));
    expectLoss(result.loss, lossOf('masked'));
    expectGradients('masked', result, words);
  });

  it.each(
    (
      [
        ['mos_ones_mask', 'ones'],
        ['img_masked', 'img_mask'],
      ] as const
    ).filter(([name]) => has(name)),
  )('%s', async (name, weights) => {
    const { run, batch } = edLora();
    expectLoss((await run(batch(0, weights, captionsOf(0)))).loss, lossOf(name));
  });

  it.each(regularised())('%s', async (name, fullIdentity) => {
    const { run, batch, words } = edLora({
      attention: { fullIdentity },
      attentionWeight: index.attn_reg_weight,
    });
    const result = await run(batch(0, 'mask', captionsOf(0)));
    expectLoss(result.loss, lossOf(name));
    expectGradients(name, result, words);
    const maps = [...golden.tensors.keys()].filter((key) => key.startsWith('attn_maps|'));
    expect(maps.length).toBeGreaterThan(0);
    for (const key of maps) {
      const cells = sizeOf(golden.tensors.get(key)!.shape.slice(1, 3));
      const own = Object.entries(result.outputs).find(
        ([output, { shape }]) => output.startsWith('attention_maps.') && shape[1] === cells,
      );
      expect(own![1].data as Float32Array, key).toBeAllClose(stored(golden, key), { rtol: 2e-5 });
    }
  });

  it.runIf(has('v_prediction_masked'))('v prediction', async () => {
    const { run, batch, words } = edLora();
    const result = await run(batch(0, 'mask', captionsOf(0), 'v_prediction'));
    expectLoss(result.loss, lossOf('v_prediction_masked'));
    expectGradients('v_prediction_masked', result, words);
  });

  it.runIf(has('prior_preservation'))('prior preservation', async () => {
    const { run, batch, words } = edLora();
    const { prior_weight, instance, prior } = index.cases.prior_preservation!;
    const { channels, cells } = recorded(0);
    const lossWeights = Float32Array.of(
      ...plainWeights(1, channels, cells),
      ...plainWeights(1, channels, cells, prior_weight!),
    );
    const result = await run(batch(0, lossWeights, [captionsOf(0)[0]!, index.prior_caption]));
    expectLoss(result.loss, lossOf('prior_preservation'));
    expectLoss(result.errors[0]!, instance!);
    expectLoss(result.errors[1]! / prior_weight!, prior!);
    expectGradients('prior_preservation', result, words);
  });

  it.each(regularised().slice(-1))(
    '%s: the same gradients when blocks are recomputed',
    async (name, fullIdentity) => {
      const { run, batch, words } = edLora({
        checkpointBlocks: true,
        attention: { fullIdentity },
        attentionWeight: index.attn_reg_weight,
      });
      expectGradients(name, await run(batch(0, 'mask', captionsOf(0))), words);
    },
  );
});

it.runIf(has('lora_only'))('LoRA alone', async () => {
  const { feeds, ranks } = factorsOf(maple);
  const { step, prompts } = stepOf({
    words: [],
    layers: 1,
    rows: new Float32Array(0),
    plan: { ranks },
  });
  const { rows, channels, cells, ...own } = recorded(0);
  const batch = {
    ...own,
    lossWeights: plainWeights(rows, channels, cells),
    prompts: prompts(Array<string>(rows).fill(index.prior_caption)),
  };
  const result = await step.run(batch, asFactors(feeds));
  expectLoss(result.loss, lossOf('lora_only'));
  expectGradients('lora_only', result, []);
});

describe('embeddings alone', () => {
  it.each(Object.keys(index.cases).filter((name) => index.cases[name]!.prompts !== undefined))(
    '%s',
    async (name) => {
      const { tokens, prompts: templates } = index.cases[name]!;
      const raw = golden.tensors.get(`${name}|init`)!;
      const layerwise = name === 'xti';
      const words = layerwise ? [tokens![0]!] : tokens!;
      const { step, prompts } = stepOf({
        words,
        layers: layerwise ? tokens!.length : 1,
        rows: readFloat32(raw),
        plan: {},
      });
      const { rows, channels, cells, ...own } = recorded(0);
      const result = await step.run(
        {
          ...own,
          lossWeights: plainWeights(rows, channels, cells),
          prompts: prompts(templates!.map((template) => template.replace('{}', words.join(' ')))),
        },
        new Map(),
      );
      expectLoss(result.loss, lossOf(name));
      expect(relativeError(embeddingsOf(result)!, stored(golden, `${name}|grad`))).toBeLessThan(
        GRADIENT_TOLERANCE,
      );
    },
  );
});

describe('Custom Diffusion', () => {
  const cases = Object.entries(index.cases).flatMap(([name, { first_token_detached }]) =>
    first_token_detached === undefined ? [] : [[name, first_token_detached] as const],
  );
  it.each(cases)('%s', async (name, detachFirstToken) => {
    const { captions, token_init, prior_weight } = index.cases[name]!;
    // Full weights as factors: up [m, n] against the identity [n, n].
    const trained = [...golden.tensors.keys()]
      .filter((key) => key.startsWith(`${name}|`) && key.endsWith('.weight'))
      .map((key) => key.slice(name.length + 1, -'.weight'.length));
    expect(trained.length).toBeGreaterThan(0);
    const factors = new Map<LayerId, { down: Tensor; up: Tensor }>();
    const ranks = new Map<LayerId, number>();
    for (const layer of trained) {
      const [m, n] = base.parts.unet.weights.get(`${layer}.weight`)!.shape as [number, number];
      const identity = Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));
      factors.set(layerId('unet', layer), { down: float32([n, n], identity), up: float32([m, n]) });
      ranks.set(layerId('unet', layer), n);
    }
    const { step, prompts } = stepOf({
      words: [...new Set(captions!.flatMap((caption) => caption.match(/<[^\s<>]+>/g) ?? []))],
      layers: 1,
      rows: stored(golden, token_init!),
      plan: { ranks, detachFirstToken },
    });
    const { rows, channels, cells, ...own } = recorded(0);
    const lossWeights = Float32Array.of(
      ...plainWeights(rows / 2, channels, cells),
      ...plainWeights(rows / 2, channels, cells, prior_weight!),
    );
    const result = await step.run({ ...own, lossWeights, prompts: prompts(captions!) }, factors);
    expectLoss(result.loss, lossOf(name));
    const found = within('unet', result.factors);
    expect([...found.keys()].sort()).toEqual(trained.toSorted());
    for (const [layer, { up }] of found) {
      const expected = stored(golden, `${name}|${layer}.weight`);
      expect(relativeError(up, expected), layer).toBeLessThan(GRADIENT_TOLERANCE);
    }
    const token = golden.tensors.get(`${name}|token`);
    if (token === undefined) return;
    expect(relativeError(embeddingsOf(result)!, readFloat32(token))).toBeLessThan(GRADIENT_TOLERANCE);
  });
});

describe('AdamW', () => {
  it.each(Object.keys(index.cases).filter((name) => index.cases[name]!.log !== undefined))(
    '%s',
    async (name) => {
      const { log, threshold, lr, weight_decay, betas, eps } = {
        ...index.cases.adamw_masked!,
        ...index.cases[name]!,
      };
      const { run, batch, words, rows, feeds } = edLora();
      const groups = [
        { lr: lr!.embedding, parameters: new Map([['', rows]]) },
        {
          lr: lr!.text_encoder,
          parameters: new Map(Object.entries(feeds.text_encoder).map(([k, t]) => [k, t.data])),
        },
        { lr: lr!.unet, parameters: new Map(Object.entries(feeds.unet).map(([k, t]) => [k, t.data])) },
      ];
      const states = groups.map(
        ({ parameters }) => new Map([...parameters].map(([k, p]) => [k, adamwState(p.length)])),
      );
      const width = base.parts.textEncoder.config.hiddenSize;
      let stopped = false;
      for (const [s, entry] of log!.entries()) {
        const result = await run(batch(s, 'mask', captionsOf(s)));
        expectLoss(result.loss, entry.loss);
        const rates = groups.map((group) => linearRate(group.lr, s, log!.length));
        rates.forEach((rate, i) => {
          expect(rate).toBeCloseTo(entry.lrs[i]!, 12);
        });
        const gradientsOf = [
          new Map([['', embeddingsOf(result)!]]),
          factorMap(within('text_encoder', result.factors)),
          factorMap(within('unet', result.factors)),
        ];
        groups.forEach(({ parameters }, i) => {
          if (i === 0 && stopped) return;
          for (const [key, parameter] of parameters) {
            adamwStep(parameter, gradientsOf[i]!.get(key)!, states[i]!.get(key)!, rates[i]!, {
              betas: betas!,
              epsilon: eps!,
              weightDecay: weight_decay!,
            });
          }
        });
        const norm = meanRowNorm(rows, width);
        stopped ||= norm >= threshold!;
        expect(norm).toBeCloseTo(entry.norm_mean, 6);
        expect(stopped).toBe(entry.stopped);
        expectParameters(name, s + 1, words, rows, feeds, lr!);
      }
    },
  );
});

/** Mean over a tensor of |difference| / lr below 2e-3: AdamW divides by the gradient's size. */
function expectParameters(
  name: string,
  after: number,
  words: readonly string[],
  rows: Float32Array,
  feeds: { unet: Record<string, Tensor<Float32Array>>; text_encoder: Record<string, Tensor<Float32Array>> },
  lr: { embedding: number; text_encoder: number; unet: number },
): void {
  const prefix = `${name}|after${after}|`;
  const size = rows.length / words.length;
  for (const key of [...golden.tensors.keys()].filter((candidate) => candidate.startsWith(prefix))) {
    const [part, rest] = key.slice(prefix.length).split('|') as [
      'embedding' | 'unet' | 'text_encoder',
      string,
    ];
    const word = words.indexOf(rest);
    const actual =
      part === 'embedding'
        ? rows.subarray(word * size, (word + 1) * size)
        : feeds[part][rest.replace(/\.weight$/, '')]!.data;
    const expected = stored(golden, key);
    const total = expected.reduce((sum, value, i) => sum + Math.abs(value - actual[i]!), 0);
    expect(total / expected.length / lr[part], key).toBeLessThan(2e-3);
  }
}

const factorMap = (layers: ReadonlyMap<string, FactorGradients>): Map<string, Float32Array> =>
  new Map(
    [...layers].flatMap(([layer, { down, up }]) => [
      [loraDownInput(layer), down],
      [loraUpInput(layer), up],
    ]),
  );
