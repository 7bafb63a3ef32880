/** Words with one embedding each, as other programs know them. */
import { encodeTensor } from '../../adapters/encode-layer.ts';
import type { Concept, ConceptToken } from '../../concepts/concept.ts';
import { type RawTensor, readFloat32 } from '../../formats/raw-tensor.ts';

/** The same concept, each of its words with the mean of its layers' embeddings [1, D], for every text encoder. */
export function withSharedWords(concept: Concept): Concept {
  return { ...concept, tokens: concept.tokens.map(shared) };
}

function shared({ word, embeddings }: ConceptToken): ConceptToken {
  return { word, embeddings: new Map([...embeddings].map(([encoder, own]) => [encoder, meanRow(own)])) };
}

function meanRow(embedding: RawTensor): RawTensor {
  const [rows, width] = embedding.shape as [number, number];
  const values = readFloat32(embedding);
  const mean = new Float64Array(width);
  values.forEach((value, i) => {
    mean[i % width]! += value / rows;
  });
  return encodeTensor(embedding.name, [1, width], mean, 'F32');
}
