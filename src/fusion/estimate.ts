/** How long a fusion will take, and in how much memory: from two of its own denoising steps, run for nothing else. */
import { packedLength } from '../linalg/gram.ts';
import { rankOf } from '../linalg/low-rank.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { executionContext, withProgress } from '../runtime/execution-context.ts';
import { withDefaults } from '../settings.ts';
import { type FusionAction, type FusionTask, fusionTasks, guidedRows } from './expected-work.ts';
import type { FuseRequest, FusionPlan } from './plan.ts';
import { PORT_DEFAULTS, type PortOptions } from './port/port-options.ts';
import { portRefineWork } from './port/refine-port.ts';
import { fusionRefineWork } from './refine/refine-fusion.ts';
import { heldOutOptions } from './solvers/parameter-choice.ts';
import { idInStage } from './stage.ts';
import { Collector, latentSizeFor, priorCaptions } from './statistics/collector.ts';
import { StatisticsStore, scopesOf } from './statistics/statistics-store.ts';

export interface FusionEstimate {
  /** Denoising steps of the collection: a run of the UNet each, with and without the prompt. */
  readonly passes: number;
  /** Those that kept statistics save. */
  readonly keptPasses: number;
  /** Predictions of one picture that a refinement is worth; 0 without one. */
  readonly refinePasses: number;
  /** Those of the refinement of a port, likewise. */
  readonly portPasses: number;
  /** One step as measured; null where no network is left to run. */
  readonly passMs: number | null;
  /** All of the fusion, by the measured step; null likewise. */
  readonly elapsedMs: number | null;
  /**
   * Most memory that this process will hold before a refinement: as it did in the measured steps, or what solving needs beside it; null
   * likewise. A refinement takes that of a training step.
   */
  readonly memoryBytes: number | null;
}

/** The port of a fusion, as `portable` will be asked for it. */
export interface PlannedPort {
  readonly options?: Partial<PortOptions>;
  readonly captions: readonly string[];
}

/**
 * Measure what a planned fusion will take, and its port where there is one: of that, what its refinement takes. Runs two steps of the first
 * concept's collection and keeps nothing of them.
 * @throws as `fuse` for statistics beside a concept that are of another base or concept
 */
export async function estimateFusion(
  request: FuseRequest,
  plan: FusionPlan,
  port: PlannedPort | null = null,
): Promise<FusionEstimate> {
  const { base } = request;
  const { concepts, vocabulary, layers, options } = plan;
  const tasks = await fusionTasks(base, plan);
  const kept = await keptSteps(request, plan, tasks);
  const isRun = ({ stage, action }: FusionTask): boolean => stage === 'spatial' && kept.has(action);
  const keptOf = (task: FusionTask): number => (isRun(task) ? kept.get(task.action)! : 0);
  const passes = tasks.filter(isRun).reduce((sum, { units }) => sum + units, 0);
  const keptPasses = tasks.reduce((sum, task) => sum + keptOf(task), 0);
  const { passes: refinePasses } = await fusionRefineWork(base, options, concepts.length, plan.captions);
  const portPasses = port === null ? 0 : await passesOfPort(base, plan, port);
  const counts = { passes, keptPasses, refinePasses, portPasses };
  if (layers.spatial.length === 0 || (passes === keptPasses && refinePasses + portPasses === 0)) {
    return { ...counts, passMs: null, elapsedMs: null, memoryBytes: null };
  }
  const solving = process.memoryUsage.rss() + solveBytes(base, plan);
  const stamps: number[] = [];
  const execution = withProgress(executionContext(request), () => {
    if (stamps.push(performance.now()) === MEASURED_STEPS) throw new Enough();
  });
  // As many steps as there will be: what is kept of a layer, and in which form, goes by their number.
  const steps = options.runs > 1 ? options.steps : Math.max(MEASURED_STEPS, options.steps);
  const collector = new Collector(base, vocabulary, layers, { ...options, steps }, execution);
  const [{ name, deltas }] = concepts as [FusionPlan['concepts'][number]];
  await collector.spatial(name, deltas).catch((reason: unknown) => {
    if (!(reason instanceof Enough)) throw reason;
  });
  // The first step waits for the network to be loaded.
  const passMs = stamps[1]! - stamps[0]!;
  const { cost: passCost } = tasks.find(isRun)!;
  const fusing = tasks.reduce((sum, task) => sum + (task.units - keptOf(task)) * task.cost, 0);
  const work = fusing + (portPasses * passCost) / guidedRows(options).count;
  return {
    ...counts,
    passMs,
    elapsedMs: (passMs * work) / passCost,
    memoryBytes: Math.max(process.resourceUsage().maxRSS * 1024, solving),
  };
}

async function passesOfPort(
  base: Checkpoint,
  { concepts, options: { size } }: FusionPlan,
  { options = {}, captions }: PlannedPort,
): Promise<number> {
  const port = { base, size: await latentSizeFor(base, { size }), captions };
  return portRefineWork(port, withDefaults(PORT_DEFAULTS, options), concepts.length).passes;
}

const MEASURED_STEPS = 2;

/** Ends the measured run. */
class Enough extends Error {}

/** Factors from which the report's products take a dense Gram matrix. */
const MANY_FACTORS = 128;

/**
 * What solving holds of the widest input: packed Gram matrices of all concepts and of captions, those of the next input, the sum and its
 * factor, and for many factors one dense matrix and two of all factors.
 */
function solveBytes({ parts }: Checkpoint, { concepts, captions, layers }: FusionPlan): number {
  let most = 0;
  for (const stage of ['text', 'spatial'] as const) {
    for (const layerName of layers[stage]) {
      const id = idInStage(stage, layerName);
      const { n } = parts.layers.get(id)!;
      const factors = concepts.reduce((sum, { deltas }) => {
        const delta = deltas.get(id);
        return sum + (delta === undefined ? 0 : rankOf(delta));
      }, 0);
      const packed = packedLength(n) * (2 * (concepts.length + (captions.length > 0 ? 1 : 0)) + 2);
      const dense = 2 * factors > MANY_FACTORS ? n * n : 0;
      most = Math.max(most, 8 * (packed + dense + 2 * 2 * factors * n));
    }
  }
  return most;
}

type KeptSteps = ReadonlyMap<FusionAction, number>;

/** Denoising steps that kept statistics save. */
async function keptSteps(
  request: FuseRequest,
  { concepts, captions, options, layers }: FusionPlan,
  tasks: readonly FusionTask[],
): Promise<KeptSteps> {
  const kept = new Map<FusionAction, number>([
    ['collect', 0],
    ['hold out', 0],
    ['preserve', 0],
  ]);
  const keep = (action: FusionAction, steps: number) => kept.set(action, kept.get(action)! + steps);
  if (options.statistics !== 'own' || layers.spatial.length === 0) return kept;
  const { base, cacheFolder = null } = request;
  const store = new StatisticsStore(base, cacheFolder, executionContext(request));
  const scopes = scopesOf(layers);
  const held = heldOutOptions(options);
  const holdsOut = tasks.some(({ action, units }) => action === 'hold out' && units > 0);
  try {
    for (const concept of concepts) {
      if (await store.holds(concept, scopes, options)) keep('collect', options.steps * options.runs);
      if (holdsOut && (await store.holds(concept, scopes, held))) {
        keep('hold out', held.steps * held.runs);
      }
    }
    if (captions.length > 0 && (await store.holdsPrior(captions, scopes, options))) {
      keep('preserve', options.steps * priorCaptions(captions, options).length);
    }
  } finally {
    store.close();
  }
  return kept;
}
