/** Switch and Composite against a plain loop, in which every concept is a model that holds nothing else. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { UsageError } from '../../src/errors.ts';
import { type Checkpoint, openCheckpoint } from '../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { plainLayout } from '../../src/models/unet/region-attention.ts';
import { levelSizes } from '../../src/models/unet/structure.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { checkpointSampler } from '../../src/sampling/checkpoint-schedule.ts';
import { COMBINATIONS, type CombinationName, combinedModels } from '../../src/sampling/combine.ts';
import { GuidedRows } from '../../src/sampling/guided-rows.ts';
import { runGuided } from '../../src/sampling/guided-run.ts';
import { PromptEncoder } from '../../src/sampling/prompt-encoder.ts';
import type { Region } from '../../src/sampling/region.ts';
import { Pipeline } from '../../src/sampling/sample.ts';
import { createSampler } from '../../src/sampling/samplers/create.ts';
import { UnetDenoiser } from '../../src/sampling/unet-denoiser.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import type { Tensor } from '../../src/tensor/tensor.ts';
import { goldenPath } from '../support/goldens.ts';
import { randomChange } from '../support/random-change.ts';

let base: Checkpoint;
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
});

const CELLS = 4;
const REQUEST = {
  prompt: 'a photo of a cat',
  negativePrompt: 'a dog',
  width: 8 * CELLS,
  height: 8 * CELLS,
  guidanceScale: 3,
  sampler: 'ddim',
  seed: 3,
} as const;

/** Latents of a run in which each step asks these models and takes the mean of their guided predictions. */
async function plainRun(
  models: readonly ModelDeltas[],
  steps: number,
  asked: (step: number) => readonly number[],
): Promise<Float32Array> {
  const { config } = base.parts.unet;
  const rows = new GuidedRows(1, { scale: REQUEST.guidanceScale });
  const sampler = createSampler(checkpointSampler(base, 'ddim'), steps, { eta: 0 });
  const vocabulary = bindConcepts(base.parts.tokenizers, [], base.parts.layers.contextCount);
  const everywhere = (text: string): string[] => Array<string>(vocabulary.layerCount).fill(text);
  const counts = levelSizes(config, CELLS, CELLS).map(({ height, width }) => height * width);
  const loaded: { unet: UnetDenoiser; feeds: Readonly<Record<string, Tensor>> }[] = [];
  for (const deltas of models) {
    const encoder = new PromptEncoder(base, vocabulary, deltas, 0, executionContext());
    const [texts] = await encoder.encode([[everywhere(REQUEST.negativePrompt), everywhere(REQUEST.prompt)]]);
    const unet = new UnetDenoiser(base, deltas);
    const feeds = await unet.keysValues([texts!], rows, []);
    await unet.load({
      rows: rows.count,
      latentHeight: CELLS,
      latentWidth: CELLS,
      layout: plainLayout(texts![0]!.context.shape[2]!, counts),
      adapterFeatures: false,
      controlResiduals: false,
    });
    loaded.push({ unet, feeds });
  }
  const size = config.inChannels * CELLS * CELLS;
  const latents = await runGuided({
    sampler,
    rows: new GuidedRows(1, { scale: 1 }),
    shape: [config.inChannels, CELLS, CELLS],
    noise: new TorchGenerator(REQUEST.seed).randn(size),
    predict: async ({ feeds: { sample, timestep }, index }) => {
      const mean = new Float32Array(size);
      const step = asked(index);
      for (const model of step) {
        const { unet, feeds } = loaded[model]!;
        const output = await unet.predict({
          ...feeds,
          sample: rows.both(sample),
          timestep: rows.filled(timestep.data[0]!),
        });
        rows.prediction(output).forEach((value, i) => {
          mean[i]! += value / step.length;
        });
      }
      return mean;
    },
  });
  for (const { unet } of loaded) await unet.dispose();
  return latents;
}

describe('two concepts in one prompt', () => {
  let pipeline: Pipeline;
  let concepts: ModelDeltas[];
  beforeAll(async () => {
    concepts = [randomChange(base, 1), randomChange(base, 2)];
    pipeline = await Pipeline.create(base, { placedDeltas: concepts });
  });
  afterAll(() => pipeline.dispose());
  const draw = async (combine: CombinationName, steps: number, more: object = {}): Promise<Float32Array> => {
    const [picture] = await pipeline.sample({ ...REQUEST, combine, steps, ...more });
    return picture!.latents.data;
  };

  it('take turns of five steps each', async () => {
    const steps = 11;
    const turns = (step: number): number[] => [[0, 1, 0][Math.floor(step / 5)]!];
    expect(await draw('switch', steps)).toBeAllClose(await plainRun(concepts, steps, turns), { rtol: 1e-4 });
  });

  it('are asked one by one, and answer with the mean of their guided predictions', async () => {
    expect(await draw('composite', 3)).toBeAllClose(await plainRun(concepts, 3, () => [0, 1]), {
      rtol: 1e-4,
    });
  });

  it('add up unless something else is said', async () => {
    const sum = await draw('sum', 2);
    const [unsaid] = await pipeline.sample({ ...REQUEST, steps: 2 });
    expect(unsaid!.latents.data).toEqual(sum);
    expect(await draw('composite', 2)).not.toBeAllClose(sum, { rtol: 1e-3 });
  });

  it('count by their strengths; one that acts nowhere has no turn', async () => {
    const one = [{ concept: 1 }];
    const alone = await plainRun([concepts[1]!], 2, () => [0]);
    expect(await draw('switch', 2, { concepts: one })).toBeAllClose(alone, { rtol: 1e-4 });
    const none = { concept: 0, unetStrength: 0, textEncoderStrength: 0 };
    expect(await draw('composite', 2, { concepts: [none, ...one] })).toBeAllClose(alone, { rtol: 1e-4 });
  });

  it('have places where there are regions, and turns nowhere', async () => {
    const regions: Region[] = [
      { prompt: 'a cat', shape: { kind: 'box', box: { top: 0, left: 0, bottom: 1, right: 0.5 } } },
    ];
    await expect(draw('switch', 2, { regions })).rejects.toThrow(UsageError);
    await expect(draw('shuffle' as CombinationName, 2)).rejects.toThrow('expected sum, switch, composite');
  });
});

describe('models of a combination', () => {
  const strengths = {
    unet: [[1], [0], [0.5]],
    textEncoder: [[1], [0.3], [0]],
  };
  it('are one of all, or one of each concept that acts', () => {
    expect(combinedModels(COMBINATIONS.sum, strengths)).toEqual([strengths]);
    expect(combinedModels(COMBINATIONS.composite, strengths)).toEqual([
      { unet: [[1], [0], [0]], textEncoder: [[1], [0], [0]] },
      { unet: [[0], [0], [0]], textEncoder: [[0], [0.3], [0]] },
      { unet: [[0], [0], [0.5]], textEncoder: [[0], [0], [0]] },
    ]);
    expect(combinedModels(COMBINATIONS.switch, { unet: [[0]], textEncoder: [[0]] })).toHaveLength(1);
  });
});
