/** The simplest way to put concepts into one model: add their deltas. What every fusion must beat. */
import type { Concept } from '../concepts/concept.ts';
import { conceptDeltas } from '../concepts/fit.ts';
import { bindConcepts } from '../concepts/prompt.ts';
import { UsageError } from '../errors.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { type ModelDeltas, sumDeltas } from '../models/lora.ts';
import type { PipelineParts } from '../sampling/sample.ts';

/**
 * Σ strength · ΔW_i of every layer, with the words of all concepts. One concept at strength 1 is that concept alone;
 * strength 1 / n is the average.
 * @throws {MismatchError} for concepts that do not fit the base; {UsageError} for none, or a word used twice
 */
export async function summedParts(
  base: Checkpoint,
  concepts: readonly Concept[],
  strength = 1,
): Promise<Required<Pick<PipelineParts, 'vocabulary' | 'deltas'>>> {
  if (concepts.length === 0) throw new UsageError('sum: expected at least one concept');
  const strengths = { unetStrength: strength, textEncoderStrength: strength };
  const deltas: ModelDeltas[] = [];
  for (const concept of concepts) deltas.push(await conceptDeltas(base, concept, strengths));
  return {
    vocabulary: bindConcepts(base.parts.tokenizers, concepts, base.parts.layers.contextCount),
    deltas: sumDeltas(deltas),
  };
}
