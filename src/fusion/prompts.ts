/** The prompts whose features speak for a concept, and which rows of them belong to it. */
import type { BoundVocabulary } from '../concepts/prompt.ts';
import type { PromptIds } from '../models/families/prompt-ids.ts';

export interface ConceptPrompts {
  /** Ids per template and cross-attention layer, not padded: `ids[template][layer]`. */
  readonly ids: readonly (readonly PromptIds[])[];
  /** The same padded to 77: what guides denoising runs. */
  readonly padded: readonly (readonly PromptIds[])[];
  /**
   * Positions that K and V are fused on in one prompt's ids: layer tokens of words, and the end of text. Ordinary words
   * are no concept's own, also where a name has some (`<dune1> lamp`); a name of nothing else counts as a whole.
   *
   * Source: TencentARC/Mix-of-Show@51270fd, gradient_fusion.py, which takes ids from the end of text upwards. Differs from
   * it for names without a layer token, of which it takes the end of text alone.
   */
  conceptRows(ids: PromptIds): number[];
}

/**
 * Fill a concept's name into the templates and bind its words to their layer tokens.
 * @param templates texts with `{}` where the name goes
 */
export function conceptPrompts(
  vocabulary: BoundVocabulary,
  name: string,
  templates: readonly string[],
): ConceptPrompts {
  const texts = templates.map((template) => template.replaceAll('{}', () => name));
  const end = vocabulary.tokenizer.eosId;
  const layerTokens = new Set(vocabulary.tokens.flatMap(({ ids }) => ids));
  const nameIds = vocabulary.encode(name, { pad: false }).map((ids) => ids.slice(1, -1));
  const isNamed = nameIds.some((ids) => ids.some((id) => layerTokens.has(id)));
  const ownRows = isNamed
    ? (ids: readonly number[]) => [...ids.keys()].filter((row) => layerTokens.has(ids[row]!))
    : (ids: readonly number[]) => nameIds.flatMap((wanted) => occurrences(wanted, ids));
  return {
    ids: texts.map((text) => vocabulary.promptIds(text, { pad: false })),
    padded: texts.map((text) => vocabulary.promptIds(text)),
    // Tokens stand at the same places for all text encoders.
    conceptRows: ([ids]) => [...new Set([...ownRows(ids!), ids!.indexOf(end)])].sort((a, b) => a - b),
  };
}

/** Positions in `ids` that are part of `wanted`, wherever that stands as a whole. */
function occurrences(wanted: readonly number[], ids: readonly number[]): number[] {
  const rows: number[] = [];
  for (let start = 0; start + wanted.length <= ids.length; start++) {
    if (wanted.every((id, k) => ids[start + k] === id)) rows.push(...wanted.map((_, k) => start + k));
  }
  return rows;
}
