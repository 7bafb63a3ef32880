/** LoRA files in the names of kohya's sd-scripts: ΔW = alpha / rank · up · down; without an alpha, up · down. */

import { kohyaNames, parseKohyaKey } from '../../adapters/schemes/kohya-names.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import type { ModulePath } from '../../models/keys/module-path.ts';
import type { Concept } from '../concept.ts';
import { alphaOverRank, collectLayers } from './lora-layers.ts';

/** Whether a tensor name is of this layout, of whatever architecture. */
export function isKohyaName(name: string): boolean {
  return /^lora_(unet|te\d?)_/.test(name);
}

/**
 * @param modules the layers of the base, for bases whose layers are not called as SD 1.x's
 * @throws {FormatError} as `collectLayers`
 */
export function readKohya(
  file: TensorFile,
  modules?: Iterable<ModulePath>,
): Omit<Concept, 'path' | 'metadata'> {
  const names = modules === undefined ? undefined : kohyaNames(file.path, modules);
  const layers = collectLayers(file.path, file.tensors.values(), {
    parse: (name) => parseKohyaKey(name, names),
    scale: alphaOverRank,
    // Names found in the base's own table are layers by that.
    isLayer: () => true,
  });
  return { format: 'kohya', tokens: [], layers };
}
