/** One stage's layers, input by input: layers that read the same input share what its solver prepares for it. */
import { MismatchError } from '../errors.ts';
import type { GramTerm } from '../linalg/gram.ts';
import { type LowRank, rankOf } from '../linalg/low-rank.ts';
import type { MatmulEngine } from '../linalg/matmul-engine.ts';
import { ReusedMemory } from '../linalg/reused-memory.ts';
import type { LayerDeltas } from '../models/lora.ts';
import { Pace, type Steps } from '../pace.ts';
import { type MeasuredLayer, measureLayers } from './report/measure-stage.ts';
import type { Truncation } from './report/report.ts';
import { type FusionMethod, METHOD_DEFAULTS, prepareMethod } from './solvers/method.ts';
import type { InputProblem, LayerProblem } from './solvers/problem.ts';
import { recompressSteps } from './solvers/recompress.ts';
import type { Stage } from './stage.ts';
import type { StageStatistics } from './statistics/statistics.ts';

/** A layer to solve, and its weight's shape [outputSize, inputSize]. */
export interface StageLayer {
  readonly layerName: string;
  readonly outputSize: number;
  readonly inputSize: number;
}

export interface StageProblem {
  readonly stage: Stage;
  readonly layers: readonly StageLayer[];
  /** Statistics per concept, in the order of `deltas`. */
  readonly collected: readonly StageStatistics[];
  /** Statistics of generic captions in the base model; null without preservation. */
  readonly prior: StageStatistics | null;
  readonly deltas: readonly LayerDeltas[];
}

export interface StageSolver {
  readonly method: FusionMethod;
  readonly ridge: number;
  readonly preserve: number;
  /** L-BFGS only; null: as published. */
  readonly iterations: number | null;
  readonly rank: number | 'auto' | null;
  readonly rankShare: number;
  readonly engine: MatmulEngine | null;
  /** Called after each solved layer; may throw to stop. */
  readonly onLayer?: (layerName: string) => void;
  /** Of everything that takes long. Default: one that nothing ends. */
  readonly pace?: Pace;
}

export interface SolvedLayer {
  readonly layerName: string;
  readonly delta: LowRank;
  readonly measured: MeasuredLayer;
  readonly condition: number | null;
  readonly truncation: Truncation | null;
  readonly losses: readonly number[] | null;
}

/**
 * Solve all layers of a stage, in the order of `layers`.
 * @throws {MismatchError} if statistics do not cover a layer
 * @throws {NumericalError} naming the layer whose system is singular
 */
export async function solveStage(problem: StageProblem, solver: StageSolver): Promise<SolvedLayer[]> {
  const solved = new Map<string, SolvedLayer>();
  for await (const each of inputProblems(problem, layersByInput(problem), solver)) {
    for (const layer of await solveInput(problem, each, solver)) solved.set(layer.layerName, layer);
  }
  return problem.layers.map(({ layerName }) => solved.get(layerName)!);
}

/** Measure given changes of a stage's layers, whatever made them. */
export async function measureStage(
  problem: StageProblem,
  settings: Pick<StageSolver, 'ridge' | 'preserve' | 'engine' | 'pace'>,
  changes: ReadonlyMap<string, LowRank>,
): Promise<ReadonlyMap<string, MeasuredLayer>> {
  const measured = new Map<string, MeasuredLayer>();
  for await (const each of inputProblems(problem, layersByInput(problem), settings)) {
    const { layers, input, rows } = each;
    const fused = layers.map(({ layerName }) => changes.get(layerName)!);
    const found = await measureLayers(
      layerProblems(problem, layers, input),
      fused,
      rows,
      settings.engine,
      settings.pace,
    );
    for (const layer of found) measured.set(layer.layerName, layer);
  }
  return measured;
}

/** Layers that read one input, together. @throws {MismatchError} if statistics do not cover a layer */
export function layersByInput({ layers, collected, stage }: StageProblem): readonly StageLayer[][] {
  const groups = new Map<string, StageLayer[]>();
  for (const layer of layers) {
    for (const { inputOf } of collected) {
      if (inputOf.has(layer.layerName)) continue;
      throw new MismatchError(
        `${layer.layerName}: statistics of the stage ${stage} do not cover it; collect again with \`layers: linear\``,
      );
    }
    const input = collected[0]!.inputOf.get(layer.layerName)!;
    groups.set(input, [...(groups.get(input) ?? []), layer]);
  }
  return [...groups.values()];
}

/** The shared problem of layers that read one input, and how many rows are behind it. */
export interface SharedInput {
  readonly layers: readonly StageLayer[];
  readonly input: InputProblem;
  readonly rows: number;
}

/**
 * One shared problem after the other: the statistics of the next one are read while one is solved. They lie in memory that is used
 * again, so an earlier problem is void.
 * @param groups as `layersByInput`
 */
export async function* inputProblems(
  problem: StageProblem,
  groups: readonly (readonly StageLayer[])[],
  weights: Pick<StageSolver, 'ridge' | 'preserve'>,
): AsyncGenerator<SharedInput, void, undefined> {
  const memory = new ReusedMemory();
  const read = [new ReusedMemory(), new ReusedMemory()] as const;
  const begin = (i: number): Promise<SharedInput> | null => {
    if (i === groups.length) return null;
    const into = read[i % 2 === 0 ? 0 : 1];
    into.reuse();
    const reading = inputProblem(problem, groups[i]!, weights, into);
    // Whoever waits for it hears of a failure, if anybody does.
    reading.catch(() => undefined);
    return reading;
  };
  let next = begin(0);
  for (let i = 0; next !== null; i++) {
    const { input, ...rest } = await next;
    next = begin(i + 1);
    memory.reuse();
    yield { ...rest, input: { ...input, memory } };
  }
}

/**
 * The shared problem of layers that read one input. Reads the statistics.
 * @param memory that they may be read to
 */
export async function inputProblem(
  { collected, prior }: StageProblem,
  layers: readonly StageLayer[],
  { ridge, preserve }: Pick<StageSolver, 'ridge' | 'preserve'>,
  memory?: ReusedMemory,
): Promise<SharedInput> {
  const { layerName, inputSize } = layers[0]!;
  const inputs = collected.map((concept) => concept.inputOf.get(layerName)!);
  const reserved = prior?.inputOf.get(layerName);
  const [preserved, ...grams] = await Promise.all([
    reserved === undefined ? null : prior!.termLater(reserved, memory),
    ...collected.map((concept, i) => concept.termLater(inputs[i]!, memory)),
  ]);
  return {
    layers,
    input: {
      inputName: layerName,
      inputSize,
      grams: grams as GramTerm[],
      preserve: preserved === null ? null : { gram: preserved!, weight: preserve },
      ridge,
    },
    rows: collected.reduce((sum, concept, i) => sum + concept.rows.get(inputs[i]!)!, 0),
  };
}

/** The problems of layers that read one input. */
export function layerProblems(
  { deltas }: StageProblem,
  layers: readonly StageLayer[],
  input: InputProblem,
): LayerProblem[] {
  return layers.map(({ layerName, outputSize }) => ({
    layerName,
    outputSize,
    deltas: deltas.map((concept) => concept.get(layerName) ?? null),
    input,
  }));
}

async function solveInput(
  problem: StageProblem,
  { layers, input, rows }: SharedInput,
  solver: StageSolver,
): Promise<SolvedLayer[]> {
  const { method, iterations, rank, rankShare, engine, onLayer, pace = new Pace() } = solver;
  const prepared = await prepareMethod(method, input, {
    stage: problem.stage,
    rows,
    options: { ...METHOD_DEFAULTS, iterations },
    engine,
    pace,
  });
  const problems = layerProblems(problem, layers, input);
  const exact = await prepared.solve(problems);
  const solutions: Pick<SolvedLayer, 'delta' | 'truncation' | 'losses'>[] = [];
  for (const [l, layer] of problems.entries()) {
    const { delta, losses = null } = exact[l]!;
    const { delta: kept, truncation } = await pace.run(cut(delta, layer, rank, rankShare));
    onLayer?.(layer.layerName);
    solutions.push({ delta: kept, truncation, losses });
  }
  const measured = await measureLayers(
    problems,
    solutions.map(({ delta }) => delta),
    rows,
    engine,
    pace,
  );
  return solutions.map((solution, l) => ({
    ...solution,
    layerName: layers[l]!.layerName,
    measured: measured[l]!,
    condition: prepared.condition,
  }));
}

function* cut(
  delta: LowRank,
  { input }: LayerProblem,
  rank: number | 'auto' | null,
  rankShare: number,
): Steps<{ delta: LowRank; truncation: Truncation | null }> {
  if (rank === null || rankOf(delta) === 0) return { delta, truncation: null };
  const {
    delta: kept,
    featureError,
    plainError,
  } = yield* recompressSteps(delta, input.grams, rank, rankShare);
  return { delta: kept, truncation: { exactRank: rankOf(delta), featureError, plainError } };
}
