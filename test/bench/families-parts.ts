/** What bench:families measures in processes of their own, each alone with its memory. */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { prepareConcept } from '../../src/fusion/fusion-concept.ts';
import { DEFAULTS } from '../../src/fusion/options.ts';
import {
  inputProblems,
  layerProblems,
  layersByInput,
  type StageLayer,
  type StageProblem,
} from '../../src/fusion/solve-stage.ts';
import { factoriseInputWith, solveLayers } from '../../src/fusion/solvers/least-squares.ts';
import { nameInStage, ofStage, STAGES, stageOf } from '../../src/fusion/stage.ts';
import { collectSpatial } from '../../src/fusion/statistics/collect.ts';
import { openStatistics } from '../../src/fusion/statistics/statistics-file.ts';
import { layersWithin } from '../../src/fusion/statistics/statistics-store.ts';
import { rankOf } from '../../src/linalg/low-rank.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { timeIdsOf } from '../../src/models/families/conditioning.ts';
import { SDXL_UNET } from '../../src/models/families/sdxl-configs.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { packageRoot } from '../../src/package-root.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { GraphMatmulEngine } from '../../src/runtime/matmul-engine.ts';
import { checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { dpmSolver } from '../../src/sampling/samplers/dpm-solver.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, type Tensor } from '../../src/tensor/tensor.ts';
import { train } from '../../src/training/train.ts';
import { ensureRandomLoras, LORA_LAYERS } from './random-loras.ts';
import { ensureRandomSdxl } from './random-sdxl.ts';
import { ensureRandomStatistics, SDXL_LORA } from './random-statistics.ts';

const SIDE = 1024;
const LATENT = SIDE / 8;
const CONCEPTS = 3;
const TOKENS = 77;
const random = (seed: number, shape: readonly number[]): Tensor<Float32Array> =>
  float32(shape, new TorchGenerator(seed).randn(shape.reduce((a, b) => a * b, 1)));
const timeIds = (): Tensor<Float32Array> => timeIdsOf(SDXL_UNET, { width: SIDE, height: SIDE })!;
const peakBytes = (): number => process.resourceUsage().maxRSS * 1024;

/** Thrown out of a collection that has gone far enough. */
class Enough extends Error {}

/** What child processes do, each alone with its memory. */
export const PARTS: Readonly<Record<string, (argument: string) => Promise<object>>> = {
  /** Load, and run twice: the first run touches the weights for the first time. */
  pass: async () => {
    let start = performance.now();
    const base = await openCheckpoint(await ensureRandomSdxl());
    const { config, weights } = base.parts.unet;
    const size = { batch: 1, latentHeight: LATENT, latentWidth: LATENT, tokens: TOKENS };
    const { graph } = buildUnet(weights, config, size, { layerwiseContext: false });
    const session = await defaultRuntime().load(graph, 'every-step');
    const loadMs = performance.now() - start;
    const feeds = {
      sample: random(1, [1, 4, LATENT, LATENT]),
      timestep: float32([1], [500]),
      encoder_hidden_states: random(2, [1, TOKENS, config.crossAttentionDim]),
      text_embeds: random(3, [1, 1280]),
      time_ids: timeIds(),
    };
    let [passMs, cpuMs] = [0, 0];
    for (let run = 0; run < 2; run++) {
      start = performance.now();
      const before = process.cpuUsage();
      await session.run(feeds);
      const { user, system } = process.cpuUsage(before);
      [passMs, cpuMs] = [performance.now() - start, (user + system) / 1000];
    }
    await session.dispose();
    return { loadMs, passMs, cpuMs, peakBytes: peakBytes() };
  },
  /** Two steps of a guided collection that goes on long enough for Gram matrices everywhere; in the second all sums are there. */
  collect: async (argument) => {
    const { scope } = JSON.parse(argument) as { scope: 'attention' | 'linear' };
    const base = await openCheckpoint(await ensureRandomSdxl());
    const [file] = await ensureRandomLoras(1);
    const { deltas } = await prepareConcept(base, { concept: await loadConcept(file!), name: 'it' });
    const layers = layersWithin(base, { text: 'none', cross: 'none', spatial: scope }).spatial;
    const conditioning = {
      context: random(2, [1, base.parts.layers.contextCount, TOKENS, SDXL_UNET.crossAttentionDim]),
      pooled: random(3, [1, 1280]),
      timeIds: timeIds(),
    };
    const noise = random(1, [4 * LATENT * LATENT]).data;
    const run = { subject: '', conditioning, empty: conditioning, noise };
    const ended: number[] = [];
    try {
      await collectSpatial(base, deltas, layers, [run], {
        sampler: dpmSolver(checkpointSchedule(base), DEFAULTS.steps),
        latentSize: { height: LATENT, width: LATENT },
        guidanceScale: DEFAULTS.guidanceScale,
        contrast: DEFAULTS.contrast,
        onStep: () => {
          if (ended.push(performance.now()) === 2) throw new Enough();
        },
      });
    } catch (error) {
      if (!(error instanceof Enough)) throw error;
    }
    return { stepMs: ended[1]! - ended[0]!, layers: layers.length, peakBytes: peakBytes() };
  },
  /** Two steps of training, blocks computed a second time; the first one loads the graphs. */
  train: async (argument) => {
    const { method } = JSON.parse(argument) as { method: 'lora' | 'ed-lora' };
    const base = await openCheckpoint(await ensureRandomSdxl());
    const ended: number[] = [];
    const data = mkdtempSync(path.join(tmpdir(), 'edlora-bench-'));
    // One: each is encoded first, which takes long and is not what is measured.
    const pictures = path.join(packageRoot(), 'fixtures/tiny-world/concepts/smiley');
    for (const name of ['00.png', '00.txt']) copyFileSync(path.join(pictures, name), path.join(data, name));
    await train({
      base,
      settings: {
        data,
        method,
        ...(method === 'lora' ? {} : { token: '<toy>', init: '<rand-0.01>' }),
        resolution: SIDE,
        batch: 1,
        steps: 2,
        checkpointBlocks: true,
      },
      onProgress: ({ step }) => {
        if (step !== undefined) ended.push(performance.now());
      },
    }).finally(() => rmSync(data, { recursive: true }));
    return { stepMs: ended[1]! - ended[0]!, peakBytes: peakBytes() };
  },
  /** From statistics on disk to factors, every so manieth input of three LoRAs. Tells which systems were solved. */
  solve: async (argument) => {
    const { every } = JSON.parse(argument) as { every: number };
    const problems = await storedProblems();
    const engine = new GraphMatmulEngine({ use: 'every-step' });
    const systems: [size: number, rightHandSides: number][] = [];
    const [start, cpu] = [performance.now(), process.cpuUsage()];
    for (const problem of problems) {
      const weights = { ridge: DEFAULTS.ridge[problem.stage] as number, preserve: 0 };
      const wanted = layersByInput(problem).filter((_, i) => i % every === 0);
      for await (const { layers, input } of inputProblems(problem, wanted, weights)) {
        const system = await factoriseInputWith(engine.multiply, input);
        const solved = await solveLayers(system, layerProblems(problem, layers, input));
        systems.push([system.rank, solved.reduce((sum, delta) => sum + rankOf(delta), 0)]);
      }
    }
    const elapsedMs = performance.now() - start;
    const { user, system } = process.cpuUsage(cpu);
    await engine.dispose();
    return { elapsedMs, cpuMs: (user + system) / 1000, systems, peakBytes: peakBytes() };
  },
};

/** The stages of a fusion of three LoRAs, all with the same statistics. */
async function storedProblems(): Promise<StageProblem[]> {
  const base = await openCheckpoint(await ensureRandomSdxl());
  const { statistics } = await openStatistics(await ensureRandomStatistics(SDXL_LORA));
  const concepts: Awaited<ReturnType<typeof prepareConcept>>[] = [];
  for (const file of await ensureRandomLoras(CONCEPTS)) {
    concepts.push(await prepareConcept(base, { concept: await loadConcept(file), name: 'it' }));
  }
  return STAGES.map((stage) => {
    const layers = LORA_LAYERS.filter((layer) => stageOf(layer) === stage).map(
      ({ component, layerName, m, n }): StageLayer => ({
        layerName: nameInStage(stage, component, layerName),
        outputSize: m,
        inputSize: n,
      }),
    );
    const names = layers.map(({ layerName }) => layerName);
    return {
      stage,
      layers,
      collected: concepts.map(() => statistics[stage]),
      prior: null,
      deltas: concepts.map(({ deltas }) => ofStage(stage, names, deltas)),
    };
  });
}
