/** Words with one embedding each, as other programs know them. */
import { encodeTensor } from '../../adapters/encode-layer.ts';
import type { Concept, ConceptToken } from '../../concepts/concept.ts';
import { type RawTensor, readFloat32 } from '../../formats/raw-tensor.ts';
import type { ComponentId } from '../../models/families/layer-table.ts';

/** The same concept, each of its words with the mean of its layers' embeddings [1, D], for every text encoder. */
export function withSharedWords(concept: Concept): Concept {
  return withWords(concept, (_, own) => meanRow(own));
}

/**
 * The same concepts with other embeddings.
 * @param rows of each text encoder, one per word in the concepts' order, [words, D]
 */
export function withRows(
  concepts: readonly Concept[],
  rows: ReadonlyMap<ComponentId, Float32Array>,
): Concept[] {
  const at = new Map([...rows.keys()].map((encoder) => [encoder, 0]));
  return concepts.map((concept) =>
    withWords(concept, (encoder, { name, shape }) => {
      const width = shape[1]!;
      const from = at.get(encoder)!;
      at.set(encoder, from + width);
      return encodeTensor(name, [1, width], rows.get(encoder)!.subarray(from, from + width), 'F32');
    }),
  );
}

function withWords(concept: Concept, other: (encoder: ComponentId, own: RawTensor) => RawTensor): Concept {
  const tokens = concept.tokens.map(
    ({ word, embeddings }): ConceptToken => ({
      word,
      embeddings: new Map([...embeddings].map(([encoder, own]) => [encoder, other(encoder, own)])),
    }),
  );
  return { ...concept, tokens };
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
