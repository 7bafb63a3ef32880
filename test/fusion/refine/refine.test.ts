/** Refinement on a small base of random weights: what it minimises, and what it refuses. */
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { loadConcept } from '../../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../../src/concepts/fit.ts';
import { NumericalError, ShapeError, UsageError } from '../../../src/errors.ts';
import { spreadOver } from '../../../src/fusion/refine/held-out.ts';
import { PromptReading } from '../../../src/fusion/refine/prompt-reading.ts';
import { refine } from '../../../src/fusion/refine/refine.ts';
import { buildRefineStep } from '../../../src/fusion/refine/refine-graph.ts';
import type { RefineOptions } from '../../../src/fusion/refine/refine-options.ts';
import type { RefineProgress, RefineRequest, Teacher } from '../../../src/fusion/refine/refine-request.ts';
import { type RefinePrompt, type RefineState, Rollouts } from '../../../src/fusion/refine/refine-states.ts';
import { gradientOutput } from '../../../src/graph/gradient-outputs.ts';
import { frobeniusNorm, rankOf, scale, subtract } from '../../../src/linalg/low-rank.ts';
import type { Checkpoint } from '../../../src/models/checkpoint.ts';
import { conditioningFeeds } from '../../../src/models/families/conditioning.ts';
import { within } from '../../../src/models/families/layer-table.ts';
import { commonRanks, deltaFeeds, deltaRanks, type LayerDeltas } from '../../../src/models/lora.ts';
import { loraUpInput } from '../../../src/models/network.ts';
import { crossAttentionNames } from '../../../src/models/unet/structure.ts';
import { buildUnet } from '../../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../../src/runtime/default-runtime.ts';
import { executionContext } from '../../../src/runtime/execution-context.ts';
import type { LoadedGraph } from '../../../src/runtime/runtime.ts';
import { checkpointSchedule } from '../../../src/sampling/checkpoint-schedule.ts';
import { GuidedRows } from '../../../src/sampling/guided-rows.ts';
import { noiseSchedule } from '../../../src/sampling/noise-schedule.ts';
import { dpmSolver } from '../../../src/sampling/samplers/dpm-solver.ts';
import type { SchedulerConfig } from '../../../src/sampling/scheduler-config.ts';
import { TorchGenerator } from '../../../src/tensor/random.ts';
import { float32, sizeOf, type Tensor } from '../../../src/tensor/tensor.ts';
import { smallFusion } from '../../support/small-fusion.ts';

/** As short as a run can be that still has two rounds. */
const QUICK: Partial<RefineOptions> = {
  steps: 2,
  batch: 2,
  picturesPerPass: 2,
  denoisingSteps: 2,
  runs: 2,
  roundSteps: 1,
};

let base: Checkpoint;
let schedule: SchedulerConfig;
let own: LayerDeltas;
beforeAll(async () => {
  const small = await smallFusion();
  base = small.base;
  schedule = checkpointSchedule(base);
  const concept = await loadConcept(small.concepts.maple);
  own = within('unet', await conceptDeltas(base, concept, { unetStrength: 1, textEncoderStrength: 1 }));
});

const contextShape = (): number[] => {
  const { config } = base.parts.unet;
  return [
    1,
    crossAttentionNames(config).length,
    base.parts.textEncoder.config.maxPositions,
    config.crossAttentionDim,
  ];
};
const context = (seed: number): PromptReading =>
  new PromptReading({
    context: float32(contextShape(), new TorchGenerator(seed).randn(sizeOf(contextShape()))),
  });
const prompt = (seed: number): RefinePrompt => {
  const features = context(seed);
  return { own: features, fused: features };
};
const teacher = (name: string, deltas: LayerDeltas, seed: number): Teacher => ({
  name,
  deltas,
  prompts: [prompt(seed), prompt(seed + 1)],
});

/** One concept at half its strength, its K and V fixed in full. */
function request(options: Partial<RefineOptions> = QUICK): RefineRequest {
  const isFixed = (name: string): boolean => /attn2\.to_[kv]$/.test(name);
  return {
    base,
    schedule,
    start: new Map(
      [...own].filter(([name]) => !isFixed(name)).map(([name, delta]) => [name, scale(delta, 0.5)]),
    ),
    fixed: new Map([...own].filter(([name]) => isFixed(name))),
    noPrompt: prompt(21),
    concepts: [teacher('maple', own, 1)],
    preserved: teacher('captions', new Map(), 11),
    options,
    execution: executionContext({ threads: 1 }),
  };
}

describe('refine', () => {
  it('comes closer to the teacher', async () => {
    // One place, so that losses of different steps are of the same thing.
    const given = request({
      steps: 24,
      batch: 1,
      picturesPerPass: 1,
      denoisingSteps: 1,
      runs: 1,
      preserve: 0,
      learningRate: 0.1,
      guidanceScale: 1,
    });
    const [concept] = given.concepts;
    const { layers, losses } = await refine({
      ...given,
      concepts: [{ ...concept!, prompts: concept!.prompts.slice(0, 1) }],
    });
    expect(losses).toHaveLength(24);
    expect(losses.at(-1)).toBeLessThan(0.3 * losses[0]!);
    for (const [name, { up, down }] of layers) {
      expect(base.parts.unet.layers.get(name)).toMatchObject({ m: up.rows, n: down.cols });
      expect(rankOf({ up, down })).toBeLessThanOrEqual(rankOf(own.get(name)!));
    }
  });

  it('draws by every prompt of a teacher, however few drawings are asked for', async () => {
    const given = request({ steps: 1, runs: 1, batch: 1, picturesPerPass: 1, denoisingSteps: 1 });
    const [concept] = given.concepts;
    const prompts = [1, 2, 3].map(prompt);
    const draw = vi.spyOn(Rollouts.prototype, 'draw');
    try {
      await refine({ ...given, concepts: [{ ...concept!, prompts }] });
      expect(draw.mock.calls.flatMap(([drawn]) => drawn)).toEqual([
        prompts[0],
        given.preserved!.prompts[0],
        prompts[1],
        given.preserved!.prompts[1],
        prompts[2],
      ]);
    } finally {
      draw.mockRestore();
    }
  });

  it('has nothing to do where the start is the teacher', async () => {
    const given = { ...request(), start: own, fixed: new Map(), preserved: null };
    const { losses } = await refine({ ...given, options: { ...QUICK, guidanceScale: 1 } });
    expect(losses[0]).toBeLessThan(1e-8);
    // Its own model draws some of the concept without a prompt too; the base does not.
    const { losses: guided } = await refine(given);
    expect(guided[0]).toBeGreaterThan(1e-7);
  });

  it('ends between the start and where the steps went', async () => {
    const at = async (reach: number): Promise<number[]> => {
      const { layers } = await refine(request({ ...QUICK, reach }));
      return [...layers.values()].flatMap(({ up, down }) => [...up.data, ...down.data]);
    };
    const [quarter, half, whole] = [await at(0.25), await at(0.5), await at(1)];
    const expected = half.map((value, i) => value + 2 * (value - quarter[i]!));
    expect(whole).toBeAllClose(expected, { rtol: 1e-4, atol: 1e-6 });
    expect(whole).not.toEqual(half);
  });

  it('gives every step to one teacher, captions as many as their share', async () => {
    // The start is the concept's own model: its steps find nothing to do, those of captions do.
    const unmoved = { preserve: 0.25, learningRate: 1e-12, guidanceScale: 1 };
    const options = { ...QUICK, steps: 8, roundSteps: 8, ...unmoved };
    const { losses } = await refine({ ...request(options), start: own, fixed: new Map() });
    expect(losses.map((loss) => loss > 1e-9)).toEqual(
      [3, 7].reduce((all, i) => all.with(i, true), Array(8).fill(false)),
    );
  });

  it('takes pictures one after the other where memory has no room for more, to the same numbers', async () => {
    const given = request({ ...QUICK, checkSteps: 1, recomputeBlocks: true });
    const judged = { ...given, concepts: given.concepts.map((each) => ({ ...each, heldOut: [prompt(5)] })) };
    const together = await refine(judged);
    const single = await refine({ ...judged, options: { ...judged.options, picturesPerPass: 1 } });
    expect(single.losses).toBeAllClose(together.losses, { rtol: 1e-4 });
    const errors = ({ checks }: typeof single): number[] => checks.map(({ error }) => error);
    expect(errors(single)).toBeAllClose(errors(together), { rtol: 1e-4 });
    expect(new Set(together.losses).size).toBe(2);
  });

  it('returns the start as it is after no steps', async () => {
    const given = request({ ...QUICK, steps: 0 });
    const { layers, losses } = await refine(given);
    expect(layers).toBe(given.start);
    expect(losses).toEqual([]);
  });

  it('gives the same numbers for the same seed, of every layer it was given, and leaves those as they are', async () => {
    const given = request();
    const before = new Map([...given.start].map(([name, { up }]) => [name, up.data.slice()]));
    const one = await refine(given);
    const seen: [number, number][] = [];
    const execution = executionContext({ threads: 1 }, ({ done, total }: RefineProgress) => {
      seen.push([done, total]);
    });
    expect(await refine({ ...request(), execution })).toEqual(one);
    expect(seen.at(-1)).toEqual([seen.length, seen.length]);
    expect([...one.layers.keys()]).toEqual([...given.start.keys()]);
    for (const [name, delta] of given.start) {
      expect(delta.up.data).toEqual(before.get(name));
      expect(frobeniusNorm(subtract(one.layers.get(name)!, delta)), name).toBeGreaterThan(0);
    }
  });

  describe('with factors that hardly move', () => {
    const CELLS = 4 * 8 * 8;
    const still: Partial<RefineOptions> = {
      batch: 1,
      picturesPerPass: 1,
      runs: 1,
      preserve: 0,
      learningRate: 1e-12,
      seed: 3,
    };
    /** One concept with one prompt; the base's own K and V. */
    const lone = (options: Partial<RefineOptions>): RefineRequest => {
      const given = request({ ...still, ...options });
      const [concept] = given.concepts;
      return {
        ...given,
        concepts: [{ ...concept!, prompts: concept!.prompts.slice(0, 1) }],
        preserved: null,
      };
    };

    it.each([
      ['predictions by the prompt alone', 1, 0],
      ["guided ones, without a prompt by the base's", 4, 0.75],
    ])('compares %s, and weighs errors by σ / α, at most by 1', async (_, guidanceScale, unprompted) => {
      // From the noisiest timestep on.
      const trailing: SchedulerConfig = { ...schedule, timestepSpacing: 'trailing' };
      const given = {
        ...lone({ steps: 12, roundSteps: 12, denoisingSteps: 4, guidanceScale }),
        schedule: trailing,
        noPrompt: { own: context(31), fused: context(32) },
      };
      const { noPrompt } = given;
      const { losses } = await refine(given);
      // The states that the teacher visits, and the choice among them, from the same random numbers.
      const random = new TorchGenerator(3);
      const sampler = dpmSolver(trailing, 4);
      const size = {
        latentHeight: 8,
        latentWidth: 8,
        tokens: base.parts.textEncoder.config.maxPositions,
      };
      const fused: LayerDeltas = new Map([...given.fixed!, ...given.start]);
      const [concept] = given.concepts;
      const rollouts = await Rollouts.create(base.parts.unet, 1, size, commonRanks([fused, own]), {
        sampler,
        noPrompt,
        unprompted,
        execution: executionContext(),
      });
      const noise = random.randn(CELLS);
      const states = await rollouts.draw(concept!.prompts, noise, concept!.deltas, null, () => {});
      const judged = await rollouts.predict(states, fused);
      await rollouts.dispose();
      // Every state once more: the teacher's own prediction there, and the fused model's.
      const sessions: LoadedGraph[] = [];
      const predictor = async (deltas: LayerDeltas) => {
        const ranks = deltaRanks(deltas);
        const { weights, config } = base.parts.unet;
        const network = buildUnet(weights, config, { ...size, batch: 1 }, { loraRanks: ranks });
        const session = await defaultRuntime().load(network.graph, 'every-step');
        sessions.push(session);
        return async ({ latents, timestep }: RefineState, text: PromptReading): Promise<Float32Array> => {
          const { noise_pred } = await session.run({
            sample: float32([1, 4, 8, 8], latents),
            timestep: float32([1], [timestep]),
            ...conditioningFeeds(text.conditioning),
            ...deltaFeeds(deltas, ranks, base.parts.unet.layers),
          });
          return noise_pred!.data as Float32Array;
        };
      };
      const [ofTeacher, ofFused] = [await predictor(own), await predictor(fused)];
      const ofBase = await predictor(new Map());
      const less = (prompted: Float32Array, without: Float32Array): Float32Array =>
        prompted.map((value, i) => value - unprompted * without[i]!);
      const lossOf = async (state: RefineState, i: number): Promise<number> => {
        const { prompt: read } = state;
        const target = less(await ofTeacher(state, read.own), await ofBase(state, noPrompt.own));
        expect(state.target).toBeAllClose(target, { rtol: 1e-3, atol: 1e-4 });
        const out = less(await ofFused(state, read.fused), await ofFused(state, noPrompt.fused));
        expect(judged[i]).toBeAllClose(out, { rtol: 1e-3, atol: 1e-4 });
        const error = target.reduce((sum, value, k) => sum + (out[k]! - value) ** 2 / CELLS, 0);
        const alpha = noiseSchedule(schedule).alphasCumprod[Math.round(state.timestep)]!;
        return Math.min(1, Math.sqrt(1 - alpha) / Math.sqrt(alpha)) * error;
      };
      const expected: number[] = [];
      for (const [i, state] of states.entries()) expected.push(await lossOf(state, i));
      for (const session of sessions) await session.dispose();
      expect(states).toHaveLength(4);
      const chosen = losses.map(() => {
        random.rand(1);
        return random.randint(0, states.length, 1)[0]!;
      });
      expect(new Set(chosen).size).toBe(4);
      expect(losses).toBeAllClose(
        chosen.map((i) => expected[i]!),
        { rtol: 1e-3 },
      );
      // The first is cut at 1, the last is not.
      const ratios = sampler.timesteps.map((t) => {
        const alpha = noiseSchedule(schedule).alphasCumprod[Math.round(t)]!;
        return Math.sqrt((1 - alpha) / alpha);
      });
      expect(ratios[0]).toBeGreaterThan(1);
      expect(ratios.at(-1)).toBeLessThan(1);
    });

    it('visits where the fused model goes itself from the second round on, in half of the rows', async () => {
      const [steps, roundSteps] = [40, 10];
      // One step of denoising: a state is its noise, and each drawing adds one.
      const { losses } = await refine(lone({ steps, roundSteps, denoisingSteps: 1 }));
      const random = new TorchGenerator(3);
      random.randn(CELLS);
      let own = 0;
      const visited = Array.from({ length: steps }, (_, step): string => {
        if (step > 0 && step % roundSteps === 0) {
          random.randn(CELLS);
          own++;
        }
        const [which] = random.rand(1);
        const chosen = own > 0 && which! < 0.5;
        const [place] = random.randint(0, chosen ? own : 1, 1);
        return chosen ? `own ${place}` : 'teacher';
      });
      // Equal places have equal losses, others do not.
      const lossAt = new Map<string, number>();
      visited.forEach((place, step) => {
        const before = lossAt.get(place);
        if (before === undefined) lossAt.set(place, losses[step]!);
        else expect(Math.abs(losses[step]! / before - 1), `step ${step}: ${place}`).toBeLessThan(1e-4);
      });
      expect([...lossAt.keys()].toSorted()).toEqual(['own 0', 'own 1', 'teacher']);
      expect(new Set([...lossAt.values()].map((loss) => loss.toPrecision(4))).size).toBe(3);
      expect(visited.slice(0, roundSteps)).toEqual(Array(roundSteps).fill('teacher'));
    });
  });

  describe('with prompts to be judged by', () => {
    const judged = (options: Partial<RefineOptions>): RefineRequest => {
      const given = request({ ...QUICK, roundSteps: 100, ...options });
      return {
        ...given,
        concepts: given.concepts.map((concept) => ({ ...concept, heldOut: [prompt(5)] })),
        preserved: { ...given.preserved!, heldOut: [prompt(7)] },
      };
    };

    it('gives back the start where steps make it worse', async () => {
      const given = judged({ steps: 6, checkSteps: 3, learningRate: 1 });
      const seen: [number, number][] = [];
      const execution = executionContext({ threads: 1 }, ({ done, total }: RefineProgress) => {
        seen.push([done, total]);
      });
      const { layers, losses, checks } = await refine({ ...given, execution });
      expect(checks.map(({ step }) => step)).toEqual([0, 3, 6]);
      expect(losses).toHaveLength(6);
      for (const [name, delta] of given.start) {
        const moved = frobeniusNorm(subtract(layers.get(name)!, delta));
        expect(moved, name).toBeLessThan(1e-5 * frobeniusNorm(delta));
      }
      // Two drawings each of two teachers, in two steps.
      expect(seen.at(-1)).toEqual([8 + 6, 8 + 6]);
    });

    it('gives back the last step’s factors where they are better than the start', async () => {
      const given = judged({ steps: 8, checkSteps: 3, learningRate: 0.1, preserve: 0 });
      const { layers, checks } = await refine(given);
      expect(checks.map(({ step }) => step)).toEqual([0, 3, 6, 8]);
      expect(checks.at(-1)!.error).toBeLessThan(0.95 * checks[0]!.error);
      const [again] = (await refine({ ...given, start: layers, options: { ...given.options, steps: 1 } }))
        .checks;
      expect(again!.error / checks.at(-1)!.error).toBeCloseTo(1, 4);
    });

    it('weighs teachers as a batch does', async () => {
      const errorWith = async (preserve: number): Promise<number> => {
        const given = judged({ steps: 1, preserve, guidanceScale: 1 });
        const [check] = (await refine({ ...given, start: own, fixed: new Map() })).checks;
        return check!.error;
      };
      // Where the concept's own model is the start, captions alone are wrong.
      expect((await errorWith(0.4)) / (await errorWith(0.2))).toBeCloseTo(2, 4);
    });

    it('takes as many states of each picture, from all steps', () => {
      const states = Array.from({ length: 8 }, (_, i) => ({ timestep: i }) as RefineState);
      const taken = (pictures: number, count: number) =>
        spreadOver(states, pictures, count).map(({ timestep }) => timestep);
      expect(taken(2, 2)).toEqual([2, 7]);
      expect(taken(2, 4)).toEqual([0, 3, 4, 7]);
      expect(taken(8, 8)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    });
  });

  it('stops when asked', async () => {
    const stop = new AbortController();
    const stopped = refine({
      ...request(),
      execution: executionContext({ signal: stop.signal }, ({ action }: RefineProgress) => {
        if (action === 'step') stop.abort(new Error('enough'));
      }),
    });
    await expect(stopped).rejects.toThrow('enough');
  });

  it('names the step at which the loss is lost', async () => {
    const lost = refine(request({ ...QUICK, steps: 3, learningRate: 1e30, roundSteps: 3 }));
    await expect(lost).rejects.toThrow(NumericalError);
    await expect(lost).rejects.toThrow(/step 2 of 3.*learning rate/);
  });

  it('refuses what does not fit', async () => {
    const given = request();
    const [name, delta] = [...given.start][0]!;
    const tall = { up: { ...delta.up, rows: delta.up.rows + 1 }, down: delta.down };
    const [concept] = given.concepts;
    const short = new PromptReading({ context: float32([1, 2, 3]) });
    const bent = { own: short, fused: short };
    const cases: [Partial<RefineRequest>, new (...args: never[]) => Error, RegExp][] = [
      [{ start: new Map([[name, tall]]) }, ShapeError, /expected \[\d+, \d+\], got/],
      [{ start: new Map() }, UsageError, /at least one layer/],
      [{ concepts: [] }, UsageError, /at least one concept/],
      [{ fixed: own }, UsageError, /got both/],
      [{ concepts: [{ ...concept!, prompts: [] }] }, UsageError, /maple: expected at least one prompt/],
      [{ concepts: [{ ...concept!, prompts: [bent] }] }, ShapeError, /maple: expected text features/],
      [
        { options: { ...QUICK, checkSteps: 0 } },
        UsageError,
        /checkSteps: expected a whole number ≥ 1, got 0/,
      ],
      [{ options: { ...QUICK, batch: 0 } }, UsageError, /batch: expected a whole number ≥ 1, got 0/],
      [{ options: { ...QUICK, picturesPerPass: 3 } }, UsageError, /divisor of the batch of 2, got 3/],
      [{ options: { ...QUICK, preserve: 1 } }, UsageError, /preserve: expected/],
      [{ options: { ...QUICK, reach: 0 } }, UsageError, /reach: expected/],
      [{ noPrompt: bent }, ShapeError, /no prompt: expected text features/],
      [{ options: { ...QUICK, guidanceScale: Number.NaN } }, UsageError, /guidance: expected/],
      [{ options: { ...QUICK, learningRate: Number.NaN } }, UsageError, /learning rate: expected/],
    ];
    for (const [change, type, message] of cases) {
      const refused = refine({ ...given, ...change });
      await expect(refused).rejects.toThrow(type);
      await expect(refused).rejects.toThrow(message);
    }
  });
});

describe('buildRefineStep', () => {
  it.each([
    ['prompted', 0],
    ['guided', 0.75],
  ])('measures the %s prediction, and its gradient is the slope', async (_, unprompted) => {
    const { config, weights } = base.parts.unet;
    const size = { latentHeight: 8, latentWidth: 8, tokens: base.parts.textEncoder.config.maxPositions };
    const ranks = deltaRanks(own);
    const [layer] = [...own.keys()];
    const options = { ranks, trained: [layer!], unprompted };
    const random = new TorchGenerator(5);
    const cells = 4 * 8 * 8;
    const rows = new GuidedRows(2, { scale: unprompted === 0 ? 1 : 4 });
    const sample = float32([2, 4, 8, 8], random.randn(2 * cells));
    const target = float32([2, 4, 8, 8], random.randn(2 * cells));
    const rowWeight = float32([2, 1, 1, 1], Float32Array.of(0.25, 2));
    const common: Record<string, Tensor> = {
      sample: rows.both(sample),
      timestep: rows.both(float32([2], Float32Array.of(900, 300))),
      ...conditioningFeeds(
        rows.conditioning(context(3).conditioning, [context(1).conditioning, context(2).conditioning]),
      ),
      ...deltaFeeds(own, ranks, base.parts.unet.layers),
    };
    const plain = await defaultRuntime().load(
      buildUnet(weights, config, { ...size, batch: rows.count }, { loraRanks: ranks }).graph,
      'training',
    );
    const predicted = (await plain.run(common)).noise_pred!.data as Float32Array;
    const prompted = predicted.subarray(predicted.length - 2 * cells);
    let expected = 0;
    for (let i = 0; i < 2 * cells; i++) {
      const error = prompted[i]! - unprompted * predicted[i]! - target.data[i]!;
      expected += rowWeight.data[i < cells ? 0 : 1]! * error * error;
    }
    const feeds: Record<string, Tensor> = { ...common, target, row_weight: rowWeight };
    const step = await defaultRuntime().load(
      buildRefineStep(base.parts.unet, 2, size, { ...options, recomputeBlocks: false }),
      'training',
    );
    const again = await defaultRuntime().load(
      buildRefineStep(base.parts.unet, 2, size, { ...options, recomputeBlocks: true }),
      'training',
    );
    const out = await step.run(feeds);
    expect(Math.abs((out.loss!.data[0] as number) / expected - 1)).toBeLessThan(1e-4);
    const gradient = out[gradientOutput(loraUpInput(layer!))]!.data as Float32Array;
    const recomputed = (await again.run(feeds))[gradientOutput(loraUpInput(layer!))]!.data as Float32Array;
    expect(recomputed).toBeAllClose(gradient, {
      rtol: 1e-3,
      atol: 1e-6 * Math.max(...gradient.map(Math.abs)),
    });

    // Along the gradient itself the slope is its squared norm.
    const up = feeds[loraUpInput(layer!)] as Tensor<Float32Array>;
    const squared = gradient.reduce((sum, value) => sum + value * value, 0);
    const reach = (5e-5 * expected) / squared;
    const lossAt = async (shift: number): Promise<number> => {
      const moved = float32(
        [...up.shape],
        up.data.map((value, i) => value + shift * gradient[i]!),
      );
      return (await step.run({ ...feeds, [loraUpInput(layer!)]: moved })).loss!.data[0] as number;
    };
    const slope = ((await lossAt(reach)) - (await lossAt(-reach))) / (2 * reach);
    expect(Math.abs(slope / squared - 1)).toBeLessThan(0.02);
    for (const session of [plain, step, again]) await session.dispose();
  });
});
