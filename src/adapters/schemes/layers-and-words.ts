/** What a LoRA file holds in any scheme of names: layers, and words bundled beside them. */
import type { TensorFile } from '../../formats/tensor-file.ts';
import { type CollectOptions, collectAdapterLayers } from '../layer-parts.ts';
import type { Content } from './scheme.ts';
import { bundledWords, isBundledEmbedding } from './textual-inversion.ts';

/** @throws as `collectAdapterLayers` and `bundledWords` */
export function layersAndWords(file: TensorFile, options: CollectOptions): Content {
  const tensors = [...file.tensors.values()];
  const layers = collectAdapterLayers(
    file.path,
    tensors.filter(({ name }) => !isBundledEmbedding(name)),
    options,
  );
  return { ...layers, words: bundledWords(file.path, tensors) };
}
