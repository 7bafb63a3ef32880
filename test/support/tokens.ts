/** Words of a base with one text encoder, as most tests have them. */
import type { ConceptToken } from '../../src/concepts/concept.ts';
import type { RawTensor } from '../../src/formats/raw-tensor.ts';

export const tokenOf = (word: string, embedding: RawTensor): ConceptToken => ({
  word,
  embeddings: new Map([['text_encoder', embedding]]),
});

/** Its vectors, [L, D] or [1, D]. */
export const vectorsOf = ({ embeddings }: ConceptToken): RawTensor => embeddings.get('text_encoder')!;
