/** Pictures in places that are found: those of regions drawn there, the same each time, and nothing beside them that cannot be. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bindConcepts } from '../../../src/concepts/prompt.ts';
import { UsageError } from '../../../src/errors.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../../src/models/lora.ts';
import { keyInput } from '../../../src/models/unet/region-attention.ts';
import { crossAttentionNames, levelSizes } from '../../../src/models/unet/structure.ts';
import { heardKeyInput, heardWordsInput } from '../../../src/models/unet/word-shares.ts';
import { defaultRuntime } from '../../../src/runtime/default-runtime.ts';
import { executionContext } from '../../../src/runtime/execution-context.ts';
import type { Runtime } from '../../../src/runtime/runtime.ts';
import { autoCalls } from '../../../src/sampling/auto-regions/auto-regions.ts';
import { FoundPlaces } from '../../../src/sampling/auto-regions/found-places.ts';
import { checkpointSampler } from '../../../src/sampling/checkpoint-schedule.ts';
import { DenoisingRun } from '../../../src/sampling/denoising-run.ts';
import { GuidedRows } from '../../../src/sampling/guided-rows.ts';
import type { LatentCodec } from '../../../src/sampling/latent-codec.ts';
import { PromptEncoder } from '../../../src/sampling/prompt-encoder.ts';
import { coverage, type Region } from '../../../src/sampling/region.ts';
import { resolveRequest, type SampleRequest } from '../../../src/sampling/request.ts';
import { Pipeline, type SampledPicture } from '../../../src/sampling/sample.ts';
import { createSampler } from '../../../src/sampling/samplers/create.ts';
import { UnetDenoiser } from '../../../src/sampling/unet-denoiser.ts';
import { WordListener } from '../../../src/sampling/word-listening.ts';
import { familiesPath, goldenPath } from '../../support/goldens.ts';
import { randomChange } from '../../support/random-change.ts';

let base: Checkpoint;
let concepts: ModelDeltas[];
let pipeline: Pipeline;
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
  concepts = [randomChange(base, 1), randomChange(base, 2)];
  pipeline = await Pipeline.create(base, { placedDeltas: concepts });
});
afterAll(() => pipeline.dispose());

const AUTO = {
  background: 'on grass',
  regions: [
    { prompt: 'a cat on grass', words: ['cat'], concepts: [{ concept: 0 }] },
    { prompt: 'a dog on grass', words: ['dog'], concepts: [{ concept: 1 }] },
  ],
};
const REQUEST: SampleRequest = {
  prompt: 'a cat and a dog on grass',
  negativePrompt: 'a bird',
  width: 64,
  height: 64,
  steps: 3,
  guidanceScale: 3,
  sampler: 'ddim',
  concepts: [],
  isolate: 0,
  seed: 3,
};

/** What draws the regions in the places of a picture, kept apart. */
function drawnIn({ found }: SampledPicture): SampleRequest {
  const regions = AUTO.regions.map(
    ({ words: _, ...region }, i): Region => ({
      negativePrompt: 'a bird',
      ...region,
      shape: { kind: 'mask', mask: found[i]!.mask },
    }),
  );
  return { ...REQUEST, prompt: AUTO.background, isolate: 1, regions };
}

describe('a picture in found places', () => {
  it('is the one that regions drawn there give, kept apart as they are', async () => {
    const [auto] = await pipeline.sample({ ...REQUEST, isolate: 1, autoRegions: AUTO });
    expect(auto!.found).toHaveLength(2);
    const [drawn] = await pipeline.sample(drawnIn(auto!));
    expect(auto!.latents.data).toBeAllClose(drawn!.latents.data, { rtol: 0, atol: 1e-5 });
  });

  it('is told the size of each place while it keeps to itself, by a model that reads sizes', async () => {
    const xl = await openCheckpoint(familiesPath('sdxl', 'model'));
    const own = await Pipeline.create(xl, { placedDeltas: [randomChange(xl, 1), randomChange(xl, 2)] });
    try {
      const [auto] = await own.sample({ ...REQUEST, isolate: 1, autoRegions: AUTO });
      const request = drawnIn(auto!);
      const [drawn] = await own.sample(request);
      expect(auto!.latents.data).toBeAllClose(drawn!.latents.data, { rtol: 1e-5, atol: 1e-5 });
      // One that is told another size is another picture.
      const [told] = await own.sample({
        ...request,
        targetSize: { width: REQUEST.width!, height: REQUEST.height! },
      });
      expect(told!.latents.data).not.toBeAllClose(drawn!.latents.data, { rtol: 1e-4, atol: 1e-4 });
    } finally {
      await own.dispose();
    }
  });

  it('is its own whichever is drawn before it, and another one begun anew; steps are told as they are made', async () => {
    const told: string[] = [];
    const onStep = ({ step, steps }: { step: number; steps: number }) => void told.push(`${step}/${steps}`);
    const request = { ...REQUEST, autoRegions: { ...AUTO, restart: false } };
    const all = await pipeline.sample({ ...request, count: 2, batchSize: 2 }, { onStep });
    const [second] = await pipeline.sample({ ...request, seed: 4 });
    expect(second!.latents.data).toEqual(all[1]!.latents.data);
    expect(second!.found).toEqual(all[1]!.found);
    expect(all[0]!.found).not.toEqual(all[1]!.found);
    // Of both: they are drawn side by side.
    expect(told).toEqual(['1/3', '2/3', '3/3']);
    told.length = 0;
    const [anew] = await pipeline.sample({ ...REQUEST, seed: 4, autoRegions: AUTO }, { onStep });
    expect(told).toEqual(['1/4', '2/4', '3/4', '4/4']);
    expect(second!.latents.data).not.toBeAllClose(anew!.latents.data, { rtol: 1e-3 });
  });

  it('is drawn alone where a picture guides it, whose networks are not to be held for several', async () => {
    const told: string[] = [];
    const onStep = ({ step, steps }: { step: number; steps: number }) => void told.push(`${step}/${steps}`);
    const { width, height } = pipeline.resolve(REQUEST);
    const picture = { width, height, data: new Uint8Array(3 * width * height).fill(90) };
    const request = { ...REQUEST, steps: 2, count: 2, init: { picture, denoise: 1 } };
    await pipeline.sample({ ...request, autoRegions: { ...AUTO, restart: false } }, { onStep });
    expect(told).toEqual(['1/2', '2/2', '1/2', '2/2']);
  });

  it.each([
    [0, 2],
    // Each picture has borders of its own.
    [0.5, 4],
  ])(
    'shares graphs with others, isolated for %d of the steps: %d, one of which looks',
    async (isolate, loads) => {
      let counted = 0;
      const inner = defaultRuntime();
      const runtime: Runtime = {
        traits: inner.traits,
        load: (graph, use, settings) => {
          if (use === 'every-step' && graph.outputs.has('noise_pred')) counted++;
          return inner.load(graph, use, settings);
        },
        upload: (tensor) => inner.upload(tensor),
        dispose: () => inner.dispose(),
      };
      const counting = await Pipeline.create(base, { placedDeltas: concepts, runtime });
      await counting.sample({ ...REQUEST, steps: 2, count: 2, isolate, autoRegions: AUTO });
      await counting.dispose();
      expect(counted).toBe(loads);
    },
  );

  it('is drawn by the whole prompt without concepts until places are found', async () => {
    const plain = await pipeline.sample({ ...REQUEST, steps: 1 });
    const looking = await pipeline.sample({ ...REQUEST, steps: 1, autoRegions: { ...AUTO, restart: false } });
    expect(looking[0]!.latents.data).toBeAllClose(plain[0]!.latents.data, { rtol: 0, atol: 1e-5 });
  });
});

it('places that move and are boxes give the picture of drawn boxes', async () => {
  const half = (left: number, right: number): Region['shape'] => ({
    kind: 'box',
    box: { top: 0, left, bottom: 1, right },
  });
  const shapes = [half(0, 0.5), half(0.5, 1)];
  const regions = AUTO.regions.map(
    ({ prompt, concepts: uses }, i): Region => ({
      prompt,
      concepts: uses,
      shape: shapes[i]!,
    }),
  );
  const { config } = base.parts.unet;
  const layers = base.parts.layers.contextCount;
  const request = resolveRequest({ ...REQUEST, width: 128, steps: 2, regions }, base, 8, layers);
  const vocabulary = bindConcepts(base.parts.tokenizers, [], layers);
  const execution = executionContext();
  const encoder = new PromptEncoder(base, vocabulary, new Map(), 0, execution);
  const everywhere = (text: string): string[] => Array<string>(layers).fill(text);
  const texts = [AUTO.background, ...AUTO.regions.map(({ prompt }) => prompt), REQUEST.prompt];
  const sources = await encoder.encode(texts.map((text) => [everywhere('a bird'), everywhere(text)]));
  const strengths = [
    [0, 1, 0, 0],
    [0, 0, 1, 0],
  ];
  const unet = new UnetDenoiser(base, new Map(), execution, concepts);
  const run = new DenoisingRun({
    base,
    request,
    unet,
    codec: null as unknown as LatentCodec,
    sampler: createSampler(checkpointSampler(base, 'ddim'), 2, { eta: 0 }),
    models: [{ sources, strengths }],
    factor: 8,
    execution,
  });
  const levels = levelSizes(config, 8, 16);
  const positions = encoder.wordPositions(REQUEST.prompt, ['cat', 'dog']);
  const places = new FoundPlaces({
    finder: {
      title: 'boxes',
      find: ({ size }) => shapes.map((shape) => coverage(shape, size.height, size.width)),
      memory: 1,
      moves: true,
    },
    words: 2,
    levels,
    tokens: sources.map((pair) => pair[0]!.context.shape[2]!),
    strengths,
    listener: new WordListener(config, [0, 1], positions, 77, new GuidedRows(1, { scale: 3 })),
    attentions: crossAttentionNames(config),
    lookingCalls: 1,
    stillFrom: 2,
    isolatedCalls: 0,
    toldSizes: () => undefined,
  });
  // What is listened to is the whole prompt, the last source, in the rows that have it.
  const rows = new GuidedRows(1, { scale: 3 });
  const keys = await unet.keysValues(sources, rows, strengths);
  const [name] = crossAttentionNames(config) as [string];
  const fed = places.at(0).feeds(0, keys);
  expect(fed[heardKeyInput(name)]).toEqual(rows.positive(keys[keyInput(name, 3)]!));
  const columns = fed[heardWordsInput(name)]!.data as Float32Array;
  positions.forEach((layers, word) => {
    const told = Array.from({ length: 77 }, (_, t) => t).filter((t) => columns[2 * t + word] === 1);
    expect(told).toEqual(layers[0]);
  });
  places.restart();
  const [moving] = await run.denoise([0], places, () => {});
  const [drawn] = await run.denoise([0], run.drawnPlaces(), () => {});
  await unet.dispose();
  expect(moving!.data).toBeAllClose(drawn!.data, { rtol: 0, atol: 1e-5 });
});

describe('calls of a run', () => {
  it('look for a twelfth of it, move for half, and stand still where regions are kept apart', () => {
    expect(autoCalls(AUTO, 25, 0)).toEqual({ looking: 2, stillFrom: 13, isolated: 0 });
    expect(autoCalls(AUTO, 25, 0.4)).toEqual({ looking: 2, stillFrom: 0, isolated: 10 });
    expect(autoCalls({ ...AUTO, finder: 'one-step' }, 25, 0).stillFrom).toBe(0);
    expect(autoCalls(AUTO, 1, 0)).toEqual({ looking: 1, stillFrom: 1, isolated: 0 });
  });
});

describe('what cannot be', () => {
  const drawn: Region[] = [
    { prompt: 'a cat', shape: { kind: 'box', box: { top: 0, left: 0, bottom: 1, right: 1 } } },
  ];
  it.each<[string, Partial<SampleRequest>]>([
    ['not beside drawn regions', { regions: drawn }],
    ['not beside combine switch', { combine: 'switch' }],
    ['not beside a style mix', { layerPrompts: new Map([[0, 'a cat']]) }],
    [
      '"owl" is not in the prompt',
      { autoRegions: { ...AUTO, regions: [{ prompt: 'an owl', words: ['owl'] }] } },
    ],
    [
      'expected words of the prompt, got none',
      { autoRegions: { ...AUTO, regions: [{ prompt: 'a', words: [] }] } },
    ],
    ['got 0', { autoRegions: { ...AUTO, regions: [] } }],
    ['expected soft or one-step', { autoRegions: { ...AUTO, finder: 'hard' as 'soft' } }],
  ])('%s', async (message, wrong) => {
    const sampled = pipeline.sample({ ...REQUEST, autoRegions: AUTO, ...wrong });
    await expect(sampled).rejects.toThrow(UsageError);
    await expect(sampled).rejects.toThrow(message);
  });
});
