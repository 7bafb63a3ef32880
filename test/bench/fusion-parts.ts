/** What bench:fusion measures in processes of their own, each alone with its memory. */
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { estimateFusion } from '../../src/fusion/estimate.ts';
import { fuse } from '../../src/fusion/fuse.ts';
import { prepareConcept } from '../../src/fusion/fusion-concept.ts';
import { DEFAULTS, type FusionOptions } from '../../src/fusion/options.ts';
import { planFusion } from '../../src/fusion/plan.ts';
import { latentSizeOf } from '../../src/fusion/prompt-reader.ts';
import { PromptReading } from '../../src/fusion/refine/prompt-reading.ts';
import { refineOptionsFor } from '../../src/fusion/refine/readings.ts';
import { refine } from '../../src/fusion/refine/refine.ts';
import type { RefineProgress } from '../../src/fusion/refine/refine-request.ts';
import type { FusionProgress } from '../../src/fusion/report/report.ts';
import {
  inputProblems,
  layerProblems,
  layersByInput,
  type StageLayer,
  type StageProblem,
  solveStage,
} from '../../src/fusion/solve-stage.ts';
import { factoriseInputWith, solveLayers } from '../../src/fusion/solvers/least-squares.ts';
import { fusionMethod } from '../../src/fusion/solvers/method.ts';
import { idInStage, ofStage, STAGES } from '../../src/fusion/stage.ts';
import { collectSpatial } from '../../src/fusion/statistics/collect.ts';
import type { Statistics } from '../../src/fusion/statistics/statistics.ts';
import { openStatistics } from '../../src/fusion/statistics/statistics-file.ts';
import { layersWithin } from '../../src/fusion/statistics/statistics-store.ts';
import { choleskyAsync } from '../../src/linalg/cholesky-async.ts';
import { GramAccumulator, type PackedSymmetric, packedStart } from '../../src/linalg/gram.ts';
import { rankOf, scale } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import { ReusedMemory } from '../../src/linalg/reused-memory.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { within } from '../../src/models/families/layer-table.ts';
import { deltaFeeds, deltaRanks } from '../../src/models/lora.ts';
import { buildUnet } from '../../src/models/unet/unet.ts';
import { defaultRuntime } from '../../src/runtime/default-runtime.ts';
import { executionContext } from '../../src/runtime/execution-context.ts';
import { GraphMatmulEngine } from '../../src/runtime/matmul-engine.ts';
import { checkpointSchedule } from '../../src/sampling/checkpoint-schedule.ts';
import { dpmSolver } from '../../src/sampling/samplers/dpm-solver.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { float32, sizeOf } from '../../src/tensor/tensor.ts';
import { seconds } from './goal-table.ts';
import { ensureRandomConcepts } from './random-concepts.ts';
import { ensureRandomModel } from './random-sd15.ts';

const SCOPES = { text: 'attention', cross: 'attention', spatial: 'attention' } as const;
/** Runs of the network that are timed; the first one warms up. */
const TIMED = 4;
export const MANY = 14;
const peakBytes = (): number => process.resourceUsage().maxRSS * 1024;

/** What the fusion preserves: a few of the shipped list's kind, since each takes as many steps as a concept. */
const CAPTIONS = ['a dog on grass', 'a street in the rain', 'a bowl of fruit', 'an old portrait'];

/** A whole fusion: where its statistics lie, of how many steps, and of pictures of which size. */
export interface FusionAsked extends Pick<FusionOptions, 'steps' | 'size'> {
  readonly cache: string;
}

/** A line on standard error where another action begins, and every ten seconds. */
function progressLines(start: number): (progress: FusionProgress) => void {
  let [last, said] = ['', Number.NEGATIVE_INFINITY];
  return ({ stage, action, done, total }) => {
    const now = performance.now();
    if (`${stage} ${action}` === last && now - said < 10_000) return;
    [last, said] = [`${stage} ${action}`, now];
    process.stderr.write(`${((now - start) / 1000).toFixed(0)} s: ${last}, ${done} of ${total}\n`);
  };
}

/** What child processes do, each alone with its memory. */
export const PARTS: Readonly<Record<string, (argument: string) => Promise<object>>> = {
  /** Plain forward passes of a guided batch, with a concept's factors. */
  forward: async () => {
    const { base, concept } = await subject();
    const { config, weights } = base.parts.unet;
    const deltas = within('unet', concept.deltas);
    const ranks = deltaRanks(deltas);
    const size = { batch: 2, latentHeight: 64, latentWidth: 64, tokens: 77 };
    const session = await defaultRuntime().load(
      buildUnet(weights, config, size, { loraRanks: ranks }).graph,
      'every-step',
    );
    const feeds = {
      sample: float32([2, 4, 64, 64], new TorchGenerator(1).randn(2 * 4 * 64 * 64)),
      timestep: float32([2], [500, 500]),
      encoder_hidden_states: float32([2, 16, 77, 768], new TorchGenerator(2).randn(2 * 16 * 77 * 768)),
      ...deltaFeeds(deltas, ranks, base.parts.unet.layers),
    };
    const times: number[] = [];
    for (let run = 0; run < TIMED; run++) {
      const start = performance.now();
      await session.run(feeds);
      times.push(performance.now() - start);
    }
    await session.dispose();
    return { stepMs: Math.min(...times.slice(1)), peakBytes: peakBytes() };
  },
  /** The same passes as a collection makes them. */
  collect: async () => {
    const { base, concept } = await subject();
    const config = checkpointSchedule(base);
    const times: number[] = [];
    let last = Number.NaN;
    const context = float32([1, 16, 77, 768], new TorchGenerator(2).randn(16 * 77 * 768));
    const run = {
      subject: '',
      conditioning: { context },
      empty: { context },
      noise: new TorchGenerator(1).randn(4 * 64 * 64),
    };
    await collectSpatial(base, concept.deltas, layersWithin(base, SCOPES).spatial, [run], {
      sampler: dpmSolver(config, TIMED + 1),
      latentSize: { height: 64, width: 64 },
      guidanceScale: DEFAULTS.guidanceScale,
      contrast: DEFAULTS.contrast,
      onStep: () => {
        const now = performance.now();
        times.push(now - last);
        last = now;
      },
    });
    return { stepMs: Math.min(...times.slice(1)), peakBytes: peakBytes() };
  },
  /** The whole fusion of three concepts; statistics from the folder, if they are there. */
  fuse: async (argument) => {
    const { cache, ...features } = JSON.parse(argument) as FusionAsked;
    const base = await openCheckpoint(await ensureRandomModel());
    const concepts = [];
    for (const file of await ensureRandomConcepts(3)) concepts.push({ concept: await loadConcept(file) });
    const request = {
      base,
      concepts,
      preserveCaptions: CAPTIONS,
      options: { ...features, runs: 1 },
      cacheFolder: cache,
    };
    const estimate = await estimateFusion(request, await planFusion(request));
    const { passes, passMs, elapsedMs: told } = estimate;
    process.stderr.write(
      `${passes} steps${passMs === null ? '' : ` of ${seconds(passMs)}, ${seconds(told!)} in all`}, says the estimate\n`,
    );
    const start = performance.now();
    const { report } = await fuse({ ...request, onProgress: progressLines(start) });
    return {
      estimate,
      elapsedMs: performance.now() - start,
      solveMs: report.stages.reduce((sum, stage) => sum + stage.elapsedMs, 0),
      peakBytes: peakBytes(),
      files: report.statistics,
      kept: report.concepts.map(({ kept }) => kept),
    };
  },
  /** Steps of a refinement, each on one guided prediction, towards one concept's own model. */
  refine: async () => {
    const { base, concept } = await subject();
    const { maxPositions, layers } = base.parts;
    const shape = [1, layers.contextCount, maxPositions, base.parts.unet.config.crossAttentionDim];
    const read = new PromptReading({
      context: float32(shape, new TorchGenerator(2).randn(sizeOf(shape))),
    });
    const prompt = { own: read, fused: read };
    const deltas = within('unet', concept.deltas);
    const ended: number[] = [];
    const execution = executionContext({}, ({ action }: RefineProgress) => {
      if (action === 'step') ended.push(performance.now());
    });
    await refine({
      base,
      schedule: checkpointSchedule(base),
      start: new Map([...deltas].map(([name, delta]) => [name, scale(delta, 0.5)])),
      noPrompt: prompt,
      concepts: [{ name: 'concept', deltas, prompts: [prompt] }],
      preserved: null,
      options: {
        ...refineOptionsFor(base, latentSizeOf(base), { steps: TIMED }),
        batch: 1,
        runs: 1,
        denoisingSteps: 1,
        roundSteps: TIMED,
      },
      execution,
    });
    const times = ended.slice(1).map((end, i) => end - ended[i]!);
    return { predictionMs: Math.min(...times), peakBytes: peakBytes() };
  },
  /** Many concepts from stored statistics, those of three in turn: solved, and everything measured for the report. */
  many: async (argument) => {
    const problems = await storedProblems(JSON.parse(argument) as StoredRequest);
    const engine = new GraphMatmulEngine({ use: 'every-step' });
    const start = performance.now();
    let solved = 0;
    for (const problem of problems) {
      const { iterations, rank, rankShare } = DEFAULTS;
      const settings = { ...weights(problem), iterations, rank, rankShare };
      const method = fusionMethod('normal');
      solved += (await solveStage(problem, { method, ...settings, engine: engine.multiply })).length;
    }
    const elapsedMs = performance.now() - start;
    await engine.dispose();
    return { elapsedMs, peakBytes: peakBytes(), layers: solved };
  },
  /** The same without measurements: from statistics on disk to factors. Tells which systems were solved. */
  solve: async (argument) => {
    const problems = await storedProblems(JSON.parse(argument) as StoredRequest);
    const engine = new GraphMatmulEngine({ use: 'every-step' });
    const systems: [size: number, rightHandSides: number][] = [];
    const [start, cpu] = [performance.now(), process.cpuUsage()];
    for (const problem of problems) {
      for await (const { layers, input } of inputProblems(
        problem,
        layersByInput(problem),
        weights(problem),
      )) {
        const system = await factoriseInputWith(engine.multiply, input);
        const solved = await solveLayers(system, layerProblems(problem, layers, input));
        systems.push([system.rank, solved.reduce((sum, delta) => sum + rankOf(delta), 0)]);
      }
    }
    const elapsedMs = performance.now() - start;
    const { user, system } = process.cpuUsage(cpu);
    await engine.dispose();
    return { elapsedMs, cpuMs: (user + system) / 1000, systems, inMemory: await factorised(systems) };
  },
};

/** Matrices and right-hand sides of these sizes, in memory and packed, factorised and solved: what LAPACK is asked for beside it. */
async function factorised(
  systems: readonly (readonly [size: number, rightHandSides: number])[],
): Promise<{ elapsedMs: number; cpuMs: number }> {
  const numbers = (count: number): Float64Array => Float64Array.from(new TorchGenerator(7).randn(count));
  const packed = new Map<number, PackedSymmetric>();
  for (const [n] of systems) {
    if (packed.has(n)) continue;
    const sum = new GramAccumulator(n);
    sum.addRows(numbers(64 * n));
    const own = sum.toPacked();
    for (let i = 0; i < n; i++) own.packed[packedStart(n, i)]! += n;
    packed.set(n, own);
  }
  const sides = systems.map(([n, k]) => matrix(k, n, numbers(k * n)));
  const engine = new GraphMatmulEngine({ use: 'every-step' });
  const memory = new ReusedMemory();
  const solve = async (i: number): Promise<void> => {
    memory.reuse();
    const factor = await choleskyAsync(packed.get(systems[i]![0])!, engine.multiply, memory);
    await factor.solveRows(sides[i]!);
  };
  await solve(0);
  const [start, cpu] = [performance.now(), process.cpuUsage()];
  for (const i of systems.keys()) await solve(i);
  const elapsedMs = performance.now() - start;
  const { user, system } = process.cpuUsage(cpu);
  await engine.dispose();
  return { elapsedMs, cpuMs: (user + system) / 1000 };
}

interface StoredRequest {
  readonly files: readonly string[];
  readonly count: number;
}

const weights = ({ stage }: StageProblem) => ({ ridge: DEFAULTS.ridge[stage] as number, preserve: 0 });

/** The stages of a fusion of so many concepts, with the statistics of few in turn. */
async function storedProblems({ files, count }: StoredRequest): Promise<StageProblem[]> {
  const base = await openCheckpoint(await ensureRandomModel());
  const stored: Statistics[] = [];
  for (const file of files) stored.push((await openStatistics(file)).statistics);
  const concepts: Awaited<ReturnType<typeof prepareConcept>>[] = [];
  for (const file of await ensureRandomConcepts(count)) {
    concepts.push(await prepareConcept(base, { concept: await loadConcept(file) }));
  }
  const layers = layersWithin(base, SCOPES);
  return STAGES.map((stage) => ({
    stage,
    layers: layers[stage].map((layerName): StageLayer => {
      const { m, n } = base.parts.layers.get(idInStage(stage, layerName))!;
      return { layerName, outputSize: m, inputSize: n };
    }),
    collected: concepts.map((_, i) => stored[i % stored.length]![stage]),
    prior: null,
    deltas: concepts.map(({ deltas }) => ofStage(stage, layers[stage], deltas)),
  }));
}

async function subject() {
  const base = await openCheckpoint(await ensureRandomModel());
  const [file] = await ensureRandomConcepts(1);
  return { base, concept: await prepareConcept(base, { concept: await loadConcept(file!) }) };
}
