/** The prompts whose features speak for a concept, and which rows of them belong to it. */
import type { BoundVocabulary } from '../concepts/prompt.ts';

export interface ConceptPrompts {
  /** Ids per template and cross-attention layer, not padded: `ids[template][layer]`. */
  readonly ids: readonly (readonly (readonly number[])[])[];
  /** The same padded to 77: what guides denoising runs. */
  readonly padded: readonly (readonly (readonly number[])[])[];
  /** Positions of the concept's own tokens and of the end of text in one list of ids. */
  conceptRows(ids: readonly number[]): number[];
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
  const texts = templates.map((template) => template.replaceAll('{}', name));
  const { tokenizer } = vocabulary;
  const nameIds = vocabulary.encode(name, { pad: false }).map((ids) => ids.slice(1, -1));
  return {
    ids: texts.map((text) => vocabulary.encode(text, { pad: false })),
    padded: texts.map((text) => vocabulary.encode(text, { pad: true })),
    conceptRows: (ids) => {
      const rows = new Set([ids.indexOf(tokenizer.eosId)]);
      for (const wanted of nameIds) {
        for (let start = 0; start + wanted.length <= ids.length; start++) {
          if (!wanted.every((id, k) => ids[start + k] === id)) continue;
          for (let k = 0; k < wanted.length; k++) rows.add(start + k);
        }
      }
      return [...rows].sort((a, b) => a - b);
    },
  };
}
