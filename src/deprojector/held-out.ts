/** How far a deprojector's states are from the true ones, on prompts that it has not seen. */
import { readFloat32 } from '../formats/raw-tensor.ts';
import type { Progress } from '../progress.ts';
import type { ExecutionContext } from '../runtime/execution-context.ts';
import { float32 } from '../tensor/tensor.ts';
import { deproject } from './apply.ts';
import { type Deprojector, planOf } from './deprojector.ts';
import { projected, takenBack, unit } from './embedding.ts';
import { buildStep } from './network.ts';

/** A prompt as the text encoder has it. */
export interface KnownPrompt {
  /** [D] */
  readonly pooled: Float32Array;
  /** Without the first position, [T, D]. */
  readonly states: Float32Array;
}

/** Mean squared differences by position, T each. */
export interface HeldOutErrors {
  /** Each position from the true ones before it. */
  readonly teacherForced: readonly number[];
  /** Each position from those that were made before it: as it is used. */
  readonly autoregressive: readonly number[];
}

/** Prompts of one run. */
const BATCH = 64;

/** Measure. @param prompts not empty */
export async function heldOutErrors(
  deprojector: Deprojector,
  prompts: readonly KnownPrompt[],
  execution: ExecutionContext<Progress>,
): Promise<HeldOutErrors> {
  const { positions, space, weights } = deprojector;
  const { width, origin } = space;
  const batch = Math.min(BATCH, prompts.length);
  const embeddings = prompts.map(({ pooled }) => unit(projected(space, pooled)));
  const forced = new Float64Array(positions);
  const made = new Float64Array(positions);
  const { graph, parameters } = buildStep(planOf(deprojector), batch, false);
  const session = await execution.runtime.load(graph, 'every-step', execution);
  try {
    const fixed = Object.fromEntries(
      [...parameters].map(([name, shape]) => [name, float32(shape, readFloat32(weights.get(name)!))]),
    );
    for (let first = 0; first < prompts.length; first += batch) {
      const part = prompts.slice(first, first + batch);
      const feeds = {
        embedding: float32([batch, width]),
        states: float32([batch, positions, width]),
        before: float32([batch, positions - 1, width]),
      };
      part.forEach(({ states }, i) => {
        feeds.embedding.data.set(takenBack(space, embeddings[first + i]!), i * width);
        feeds.states.data.set(states, i * positions * width);
        feeds.before.data.set(states.subarray(0, -width), i * (positions - 1) * width);
      });
      const { predicted } = await session.run({ ...feeds, ...fixed, origin: float32([width], origin) }, [
        'predicted',
      ]);
      const data = predicted!.data as Float32Array;
      part.forEach(({ states }, i) => {
        addErrors(forced, data.subarray(i * positions * width, (i + 1) * positions * width), states);
      });
      execution.progress?.({ done: Math.min(prompts.length, first + batch), total: 2 * prompts.length });
    }
  } finally {
    await session.dispose();
  }
  const alone = await deproject(deprojector, embeddings, execution);
  alone.forEach(({ data }, i) => {
    addErrors(made, data.subarray(width), prompts[i]!.states);
  });
  execution.progress?.({ done: 2 * prompts.length, total: 2 * prompts.length });
  const mean = (sums: Float64Array): number[] => [...sums].map((sum) => sum / prompts.length);
  return { teacherForced: mean(forced), autoregressive: mean(made) };
}

/** Adds the mean square of each position. */
function addErrors(sums: Float64Array, states: Float32Array, truth: Float32Array): void {
  const width = truth.length / sums.length;
  for (let i = 0; i < truth.length; i++)
    sums[Math.floor(i / width)]! += (states[i]! - truth[i]!) ** 2 / width;
}
