/**
 * PEFT adapters: `adapter_model.safetensors` (or `.bin`) with its `adapter_config.json` beside it, which alone knows
 * lora_alpha. One adapter is of one network; a folder with adapters in `unet/` and `text_encoder/` is one concept.
 */
import path from 'node:path';
import { adapterConfigName, readAdapterConfig } from '../../adapters/schemes/peft.ts';
import { parsePeftKey, peftScale, peftScaling } from '../../adapters/schemes/peft-names.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import type { Concept } from '../concept.ts';
import { collectLayers } from './lora-layers.ts';

/** Whether a tensor name is of this layout. */
export function isPeftName(name: string): boolean {
  return name.startsWith('base_model.model.');
}

/** @throws {FormatError} as `collectLayers`, and if the configuration is missing or senseless */
export function readPeft(file: TensorFile): Omit<Concept, 'path' | 'metadata'> {
  const configFile = path.join(path.dirname(file.path), adapterConfigName);
  const scaling = peftScaling(configFile, readAdapterConfig(file.path, configFile));
  const layers = collectLayers(file.path, file.tensors.values(), {
    parse: parsePeftKey,
    scale: ({ layerName }, rank) => peftScale(file.path, scaling, layerName, rank),
  });
  return { format: 'peft', tokens: [], layers };
}
