/** Words with one embedding each, as other programs know them. */
import { encodeTensor } from '../../adapters/encode-layer.ts';
import type { Concept, ConceptToken } from '../../concepts/concept.ts';
import { readFloat32 } from '../../formats/raw-tensor.ts';

/** The same concept, each of its words with the mean of its layers' embeddings [1, D]. */
export function withSharedWords(concept: Concept): Concept {
  return { ...concept, tokens: concept.tokens.map(shared) };
}

function shared({ word, embedding }: ConceptToken): ConceptToken {
  const [rows, width] = embedding.shape as [number, number];
  const values = readFloat32(embedding);
  const mean = new Float64Array(width);
  values.forEach((value, i) => {
    mean[i % width]! += value / rows;
  });
  return { word, embedding: encodeTensor(embedding.name, [1, width], mean, 'F32') };
}
