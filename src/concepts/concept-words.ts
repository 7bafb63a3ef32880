/** Words as files have them, one entry per text encoder, and as concepts have them, one entry per word. */
import type { AdapterWord } from '../adapters/adapter.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { ConceptToken } from './concept.ts';

/** The words of a file, in its order: what it has for several text encoders is one word. */
export function tokensOf(
  words: Iterable<Pick<AdapterWord, 'word' | 'embedding' | 'encoder'>>,
): ConceptToken[] {
  const tokens = new Map<string, Map<AdapterWord['encoder'], RawTensor>>();
  for (const { word, embedding, encoder } of words) {
    const own = tokens.get(word) ?? new Map();
    tokens.set(word, own.set(encoder, embedding));
  }
  return [...tokens].map(([word, embeddings]) => ({ word, embeddings }));
}

/**
 * Words to write. A single vector is one token everywhere; several are one per cross-attention layer.
 * @param layerWise whether a single vector, too, is to be written as one of each layer. Default false.
 */
export function wordsOf(tokens: Iterable<ConceptToken>, layerWise = false): AdapterWord[] {
  return [...tokens].flatMap(({ word, embeddings }) =>
    [...embeddings].map(([encoder, embedding]) => ({
      word,
      embedding,
      rows: layerWise || embedding.shape[0]! > 1 ? 'layers' : 'tokens',
      encoder: encoder as AdapterWord['encoder'],
    })),
  );
}
