/** What a guided collection predicts with, both prompts side by side; and what a collection keeps of features. */
import { beforeAll, describe, expect, it } from 'vitest';
import { nameInStage, stageOf } from '../../../src/fusion/stage.ts';
import {
  collectCrossPrior,
  collectSpatial,
  collectText,
  type DenoisingRun,
  type SpatialSettings,
  type SpatialState,
} from '../../../src/fusion/statistics/collect.ts';
import type { StageStatistics } from '../../../src/fusion/statistics/statistics.ts';
import { type FeatureRows, toDenseGram } from '../../../src/linalg/gram.ts';
import { type Checkpoint, openCheckpoint } from '../../../src/models/checkpoint.ts';
import type { TokenEncoder } from '../../../src/models/families/conditioning.ts';
import { type PromptIds, plainIds } from '../../../src/models/families/prompt-ids.ts';
import { buildUnet } from '../../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../../src/runtime/default-runtime.ts';
import { type ExecutionContext, executionContext } from '../../../src/runtime/execution-context.ts';
import type { Runtime } from '../../../src/runtime/runtime.ts';
import { checkpointSchedule } from '../../../src/sampling/checkpoint-schedule.ts';
import { dpmSolver } from '../../../src/sampling/samplers/dpm-solver.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';
import { float32, sizeOf, type Tensor } from '../../../src/tensor/tensor.ts';
import { familiesPath, goldenPath } from '../../support/goldens.ts';

const SIDE = 8;
const LAYER = 'mid_block.attentions.0.transformer_blocks.0.attn1.to_q';

let base: Checkpoint;
beforeAll(async () => {
  base = await openCheckpoint(goldenPath('goldens-fusion/fusion/base_model'));
});

const random = (seed: number, shape: number[]): Tensor<Float32Array> =>
  float32(shape, new TorchGenerator(seed).randn(sizeOf(shape)));
function run(): DenoisingRun {
  const { unet, layers, maxPositions } = base.parts;
  const text = [1, layers.contextCount, maxPositions, unet.config.crossAttentionDim];
  return {
    conditioning: { context: random(1, text) },
    empty: { context: random(2, text) },
    noise: random(3, [1, 4, SIDE, SIDE]).data,
    subject: 'one',
  };
}

/** The network's own answer to one prompt at the first step. */
async function plain(
  context: Tensor<Float32Array>,
  noise: Float32Array,
  timestep: number,
): Promise<Float32Array> {
  const size = { batch: 1, latentHeight: SIDE, latentWidth: SIDE, tokens: context.shape[2]! };
  const { graph } = buildUnet(base.parts.unet.weights, base.parts.unet.config, size, { probes: {} });
  const session = await defaultRuntime().load(graph, 'every-step');
  const { noise_pred } = await session.run({
    sample: float32([1, 4, SIDE, SIDE], noise),
    timestep: float32([1], [timestep]),
    encoder_hidden_states: context,
  });
  await session.dispose();
  return noise_pred!.data as Float32Array;
}

describe('collecting over denoising runs', () => {
  it.each([0.5, 1, 3, 7.5])(
    'at guidance %d follows e_empty + g · (e_prompt − e_empty), from g = 1 on',
    async (guidanceScale) => {
      const schedule = checkpointSchedule(base);
      const sampler = dpmSolver(schedule, 2);
      const one = run();
      const states: SpatialState[] = [];
      await collectSpatial(base, new Map(), [LAYER], [one], {
        sampler,
        latentSize: { height: SIDE, width: SIDE },
        guidanceScale,
        contrast: null,
        onStep: (_, state) => void states.push(state()!),
      });
      const [predicted] = states[0]!.predictions;
      const start = one.noise.map((value) => value * sampler.initNoiseSigma);
      const prompted = await plain(one.conditioning.context, start, sampler.timesteps[0]!);
      const empty = await plain(one.empty.context, start, sampler.timesteps[0]!);
      const g = Math.max(1, guidanceScale);
      const expected = empty.map((value, i) => value + g * (prompted[i]! - value));
      expect(predicted!).toBeAllClose(expected, { rtol: 1e-4, atol: 1e-4 });
    },
  );
});

describe('a network in parts', () => {
  /** Rows, Gram matrices, and rows that become such. */
  const LAYERS = [
    'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q',
    'down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2',
    'mid_block.attentions.0.transformer_blocks.0.attn1.to_q',
    'up_blocks.2.attentions.1.transformer_blocks.0.attn1.to_out.0',
  ];
  const collect = (
    partBytes: number,
    more: Partial<SpatialSettings> = {},
    execution: ExecutionContext = executionContext(),
  ) =>
    collectSpatial(
      base,
      new Map(),
      LAYERS,
      [run()],
      {
        sampler: dpmSolver(checkpointSchedule(base), 3),
        latentSize: { height: SIDE, width: SIDE },
        guidanceScale: 3,
        contrast: 3,
        partBytes,
        ...more,
      },
      execution,
    );
  const expectStatistics = (found: StageStatistics, expected: StageStatistics, tolerance: number): void => {
    expect([...found.inputOf]).toEqual([...expected.inputOf]);
    expect([...found.rows]).toEqual([...expected.rows]);
    for (const input of expected.rows.keys()) {
      const [own, other] = [found, expected].map((all) => toDenseGram(all.term(input)).data);
      expect(own!, input).toBeAllClose(other!, { rtol: tolerance, atol: tolerance });
    }
  };

  it('has the same statistics; and stopped between two parts, no state of them, but that of the step before', async () => {
    const parts = await collect(3e6);
    const whole = await collect(Number.POSITIVE_INFINITY);
    const forms = [...whole.rows.keys()].map((input) => ('features' in whole.term(input) ? 'rows' : 'gram'));
    expect(new Set(forms).size).toBe(2);
    expectStatistics(parts, whole, 1e-5);

    const stop = new AbortController();
    const reason = new Error('enough');
    let [state, kept]: [() => SpatialState | null, SpatialState | null] = [() => null, null];
    let loads = 0;
    const runtime: Runtime = {
      traits: defaultRuntime().traits,
      load: (...given) => {
        // The third part of the second step.
        if (kept !== null && ++loads === 3) stop.abort(reason);
        return defaultRuntime().load(...given);
      },
      upload: (tensor) => defaultRuntime().upload(tensor),
      dispose: async () => undefined,
    };
    const onStep = (_: string, current: () => SpatialState | null): void => {
      state = current;
      kept = structuredClone(current());
    };
    const stopped = collect(3e6, { onStep }, executionContext({ runtime, signal: stop.signal }));
    await expect(stopped).rejects.toBe(reason);
    expect(kept).not.toBeNull();
    expect(state()).toBeNull();
    expectStatistics(await collect(3e6, { resume: kept }), parts, 0);
  });
});

/** The same features in either form: once as rows, and `times` as often as a Gram matrix. */
function expectSame(few: StageStatistics, many: StageStatistics, times: number): void {
  expect([...many.inputOf]).toEqual([...few.inputOf]);
  for (const [input, rows] of few.rows) {
    expect(many.rows.get(input)).toBe(times * rows);
    const [kept, summed] = [few.term(input), many.term(input)];
    expect(['features' in kept, 'features' in summed], input).toEqual([true, false]);
    expect((kept as FeatureRows).features.rows).toBe(rows);
    const expected = toDenseGram(kept).data.map((value) => times * value);
    expect(toDenseGram(summed).data, input).toBeAllClose(expected, { rtol: 1e-6 });
  }
}

describe('few rows are kept as they are', () => {
  it('of prompts, their padding left out', async () => {
    const prompts = ['a photo', 'tree'].map((text) => plainIds(base.parts.tokenizers, text));
    expect(prompts[0]![0]!.length).not.toBe(prompts[1]![0]!.length);
    const layers = [...base.parts.textEncoder.layers.keys()].filter((name) => name.endsWith('q_proj'));
    const of = (texts: readonly PromptIds[]) => collectText(base, undefined, texts, new Map(), layers);
    const few = await of(prompts);
    const [first, second] = [await of(prompts.slice(0, 1)), await of(prompts.slice(1))];
    for (const input of few.rows.keys()) {
      expect(few.rows.get(input)).toBe(prompts[0]![0]!.length + prompts[1]![0]!.length);
      const sum = toDenseGram(first.term(input)).data.map(
        (value, i) => value + toDenseGram(second.term(input)).data[i]!,
      );
      expect(toDenseGram(few.term(input)).data, input).toBeAllClose(sum, { rtol: 1e-5, atol: 1e-6 });
    }
    // So many that they are summed.
    const words = [
      'red',
      'green',
      'blue',
      'dog',
      'cat',
      'house',
      'sea',
      'sky',
      'road',
      'boat',
      'field',
      'hill',
    ];
    const many = words.map((word) => plainIds(base.parts.tokenizers, `a photo of a ${word} and a tree`));
    const summed = await of(many);
    const input = [...summed.rows.keys()][0]!;
    expect('features' in summed.term(input)).toBe(false);
    expect(summed.rows.get(input)).toBe(many.reduce((total, [ids]) => total + ids!.length, 0));
  });

  it('of the same prompt again and again once, and count as often, with the row that is projected', async () => {
    const xl = await openCheckpoint(familiesPath('sdxl', 'model'));
    const { parts } = xl;
    const prompts = ['a photo', 'tree'].map((text) => plainIds(parts.tokenizers, text));
    const layers = parts.layers
      .linear()
      .filter((layer) => stageOf(layer) === 'text' && /q_proj|text_projection/.test(layer.layerName))
      .map(({ component, layerName }) => nameInStage('text', component, layerName));
    const of = (times: number) =>
      collectText(xl, undefined, Array(times).fill(prompts).flat(), new Map(), layers);
    const [once, often] = [await of(1), await of(5)];
    expect([...often.rows.keys()].some((input) => input.includes('text_projection'))).toBe(true);
    for (const [input, rows] of once.rows) {
      expect(often.rows.get(input), input).toBe(rows);
      const expected = toDenseGram(once.term(input)).data.map((value) => 5 * value);
      expect(toDenseGram(often.term(input)).data, input).toBeAllClose(expected, { rtol: 1e-5, atol: 1e-6 });
    }
  });

  it('of captions as K and V see them', async () => {
    const states = random(4, [2, 77, 96]);
    const encoder = {
      encode: async (ids: readonly PromptIds[]) => ({
        states: float32([ids.length, 77, 96], states.data.slice(0, ids.length * 77 * 96)),
      }),
    } as unknown as TokenEncoder;
    states.data.copyWithin(77 * 96, 0, 77 * 96);
    const of = (count: number) => collectCrossPrior(encoder, Array(count).fill([]), ['attn2']);
    expectSame(await of(1), await of(2), 2);
  });

  it('of denoising runs, over all of their steps', async () => {
    const schedule = checkpointSchedule(base);
    const layer = 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q';
    const of = (runs: number) =>
      collectSpatial(base, new Map(), [layer], Array<DenoisingRun>(runs).fill(run()), {
        sampler: dpmSolver(schedule, 2),
        latentSize: { height: SIDE, width: SIDE },
        guidanceScale: 1,
        contrast: null,
      });
    expectSame(await of(1), await of(2), 2);
  });
});
