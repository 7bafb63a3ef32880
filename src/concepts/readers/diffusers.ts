/**
 * LoRA files in diffusers' spellings. Newer ones say their scaling in the header's `lora_adapter_metadata`; where
 * neither that nor an alpha is stored, diffusers applies up · down, and so do we.
 */

import { adapterScalings } from '../../adapters/schemes/diffusers.ts';
import { parseDiffusersLoraKey } from '../../adapters/schemes/diffusers-names.ts';
import { peftScale } from '../../adapters/schemes/peft-names.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import type { Concept } from '../concept.ts';
import { alphaOverRank, collectLayers } from './lora-layers.ts';

/** Whether a tensor name is of this layout. */
export function isDiffusersName(name: string): boolean {
  return parseDiffusersLoraKey(name) !== null;
}

/** @throws {FormatError} as `collectLayers`, and on adapter metadata that cannot be understood */
export function readDiffusers(file: TensorFile): Omit<Concept, 'path' | 'metadata'> {
  const scalings = adapterScalings(file);
  const layers = collectLayers(file.path, file.tensors.values(), {
    parse: parseDiffusersLoraKey,
    scale: (module, rank, loraAlpha) => {
      const scaling = loraAlpha === null ? scalings.get(module.component) : undefined;
      return scaling === undefined
        ? alphaOverRank(module, rank, loraAlpha)
        : peftScale(file.path, scaling, module.layerName, rank);
    },
  });
  return { format: 'diffusers', tokens: [], layers };
}
