/** The miniature with its merged ED-LoRA, as the regional goldens use it. */
import { loadConcept } from '../../src/concepts/concept-file.ts';
import { conceptDeltas } from '../../src/concepts/fit.ts';
import { bindConcepts } from '../../src/concepts/prompt.ts';
import { openCheckpoint } from '../../src/models/checkpoint.ts';
import { goldenPath } from './goldens.ts';

/** @param strength multiplies both networks' deltas */
export async function mergedEdlora(strength: number) {
  const base = await openCheckpoint(goldenPath('goldens/tiny-random/model'));
  const concept = await loadConcept(goldenPath('goldens/tiny-random/edlora.pth'));
  const strengths = { unetStrength: strength, textEncoderStrength: strength };
  return {
    base,
    vocabulary: bindConcepts(base.tokenizer, [concept]),
    deltas: await conceptDeltas(base, concept, strengths),
  };
}
