/**
 * PEFT adapters: `adapter_model.safetensors` (or `.bin`) with its `adapter_config.json` beside it, which alone knows
 * lora_alpha. One adapter is of one network; a folder with adapters in `unet/` and `text_encoder/` is one concept.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { FormatError } from '../../errors.ts';
import { readJsonFileSync } from '../../formats/json-file.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { parsePeftKey, peftScale, peftScaling } from '../../models/keys/peft.ts';
import type { Concept } from '../concept.ts';
import { collectLayers } from './lora-layers.ts';

export const adapterConfigName = 'adapter_config.json';

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

/**
 * The configuration that lies beside an adapter's weights.
 * @throws {FormatError} if it is missing, no ordinary file, too large, or not an object in JSON
 */
export function readAdapterConfig(weights: string, file: string): Record<string, unknown> {
  if (!existsSync(file)) {
    throw new FormatError(
      weights,
      `a PEFT adapter, but there is no ${adapterConfigName} beside it, which holds lora_alpha; keep the two together`,
    );
  }
  const config = readJsonFileSync(file);
  if (typeof config !== 'object' || config === null || Array.isArray(config)) {
    throw new FormatError(file, 'expected a JSON object');
  }
  return config as Record<string, unknown>;
}
