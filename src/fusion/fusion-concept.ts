/** A concept as it takes part in a fusion: checked against the base, with strengths applied and a name to prompt by. */
import type { Concept } from '../concepts/concept.ts';
import { conceptName } from '../concepts/concept.ts';
import { conceptDeltas } from '../concepts/fit.ts';
import { triggerPhrase } from '../concepts/trigger-phrase.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ModelDeltas } from '../models/lora.ts';

export interface FusionConceptInput {
  readonly concept: Concept;
  /** Multiplies the UNet's deltas; default 1. 0 leaves the concept's words in, but nothing of its weights. */
  readonly unetStrength?: number;
  /** Multiplies the text encoder's deltas; default 1. */
  readonly textEncoderStrength?: number;
  /**
   * What prompts call it. Default: its own words; for a plain LoRA what its header says (trigger-phrase.ts), or else its file's
   * name as words.
   */
  readonly name?: string | null;
}

export interface FusionConcept {
  readonly concept: Concept;
  /** What prompts call it. */
  readonly name: string;
  readonly unetStrength: number;
  readonly textEncoderStrength: number;
  /** Its changes of the base, strengths inside. */
  readonly deltas: ModelDeltas;
}

/**
 * Read a concept's deltas and check every one against the base.
 * @param onNote told by which name prompts call it, where that was read off its file
 * @throws {MismatchError} naming concept and base, the layers that do not fit, and the likely reason
 * @throws {FormatError} if a number is not finite
 * @throws {UsageError} if a strength is not a finite number
 */
export async function prepareConcept(
  base: Checkpoint,
  input: FusionConceptInput,
  onNote: (text: string) => void = () => undefined,
): Promise<FusionConcept> {
  const { concept, unetStrength = 1, textEncoderStrength = 1 } = input;
  const deltas = await conceptDeltas(base, concept, {
    unetStrength,
    textEncoderStrength,
  });
  return {
    concept,
    name: input.name ?? ownName(concept, onNote),
    unetStrength,
    textEncoderStrength,
    deltas,
  };
}

function ownName(concept: Concept, onNote: (text: string) => void): string {
  const words = conceptName(concept);
  if (words !== '') return words;
  const { name, source } = triggerPhrase(concept);
  onNote(`${concept.path}: prompts call it "${excerpt(name)}", by ${source}; \`name\` says another`);
  return name;
}
