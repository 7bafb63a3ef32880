/** From embeddings to states: position after position, each from those before it. */
import { MismatchError, NumericalError } from '../errors.ts';
import { type ExecutionContext, executionContext } from '../runtime/execution-context.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { checkEncoder, type Deprojector, planOf } from './deprojector.ts';
import { type EmbeddedPart, type EmbedRequest, embed } from './embed.ts';
import { takenBack } from './embedding.ts';
import { textEncoderHash } from './encoder-hash.ts';
import { buildApplication } from './network.ts';

/** Embeddings of one run. */
const BATCH = 32;

/**
 * States of the text encoder for each embedding, [1 + T, D]: the constant first position, and those that the deprojector makes.
 * @param embeddings [P] each, of length 1
 * @throws {MismatchError} for embeddings of another width; {NumericalError} for such that are not finite, or give such states
 */
export async function deproject(
  deprojector: Deprojector,
  embeddings: readonly Float32Array[],
  execution: ExecutionContext,
): Promise<Tensor<Float32Array>[]> {
  const { label, space, positions, start, weights } = deprojector;
  for (const embedding of embeddings) {
    if (embedding.length !== space.projectionDim) {
      throw new MismatchError(
        `${label}: expected embeddings of ${space.projectionDim} numbers, got ${embedding.length}; of another CLIP model?`,
      );
    }
    const bad = embedding.find((value) => !Number.isFinite(value));
    if (bad !== undefined)
      throw new NumericalError(`embedding: expected finite numbers, got ${bad}`, { value: bad });
  }
  const { width, origin } = space;
  const batch = Math.min(BATCH, embeddings.length);
  const result: Tensor<Float32Array>[] = [];
  if (batch === 0) return result;
  const { graph } = buildApplication(planOf(deprojector), weights, batch);
  const session = await execution.runtime.load(graph, 'once', execution);
  try {
    for (let first = 0; first < embeddings.length; first += batch) {
      const part = embeddings.slice(first, first + batch);
      const embedding = float32([batch, width]);
      part.forEach((own, i) => {
        embedding.data.set(takenBack(space, own), i * width);
      });
      const { states } = await session.run({ embedding, origin: float32([width], origin) });
      const data = states!.data as Float32Array;
      const size = positions * width;
      part.forEach((_, i) => {
        const own = float32([positions + 1, width]);
        own.data.set(start);
        own.data.set(data.subarray(i * size, (i + 1) * size), width);
        const bad = own.data.find((value) => !Number.isFinite(value));
        if (bad !== undefined)
          throw new NumericalError(`${label}: expected finite states, got ${bad}`, { value: bad });
        result.push(own);
      });
    }
  } finally {
    await session.dispose();
  }
  return result;
}

/**
 * States for each list of texts and pictures: embedded, averaged, deprojected.
 * @throws {MismatchError} if the deprojector is of another text encoder than the base's; else as `embed` and `deproject`
 */
export async function deprojectParts(
  lists: readonly (readonly EmbeddedPart[])[],
  request: EmbedRequest,
): Promise<Tensor<Float32Array>[]> {
  const { base, deprojector, signal } = request;
  checkEncoder(
    deprojector.label,
    deprojector.textEncoder,
    await textEncoderHash(base.parts.textEncoder, signal),
  );
  const embeddings: Float32Array[] = [];
  for (const parts of lists) embeddings.push(await embed(parts, request));
  return deproject(deprojector, embeddings, executionContext(request));
}
