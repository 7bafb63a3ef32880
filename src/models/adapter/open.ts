/** Opening a T2I-Adapter and checking it against the base it is to guide. */

import { MismatchError } from '../../errors.ts';
import { openShardedOrSingle } from '../../formats/open-tensor-file.ts';
import * as path from '../../io/platform/paths.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { readConfig } from '../config-file.ts';
import type { WeightSource } from '../network.ts';
import { featureShapes, isAddedBehind } from '../unet/adapter-features.ts';
import { type AdapterConfig, adapterSchema } from './config.ts';

export interface T2iAdapter {
  /** Absolute path of its folder. */
  readonly path: string;
  readonly config: AdapterConfig;
  readonly weights: WeightSource;
}

/**
 * Open an adapter: a diffusers folder with `config.json` and `diffusion_pytorch_model.safetensors`.
 * @throws {FormatError} if files are missing or damaged, or it is of another kind
 */
export async function openT2iAdapter(folder: string): Promise<T2iAdapter> {
  const absolute = path.resolve(folder);
  const config = await readConfig(path.join(absolute, 'config.json'), adapterSchema);
  const file = await openShardedOrSingle(absolute, 'diffusion_pytorch_model');
  return {
    path: absolute,
    config,
    weights: { label: file.path, get: (name) => file.tensors.get(name) },
  };
}

/** @param factor pixels per latent cell of the base. @throws {MismatchError} if the features would not fit its UNet */
export function checkAdapterFits(
  { path: folder, config }: T2iAdapter,
  base: Checkpoint,
  factor: number,
): void {
  const { config: unet } = base.parts.unet;
  const channels = featureShapes(unet, 1, 1).map((shape) => shape.channels);
  const behind = isAddedBehind(unet, 0);
  const type = behind ? 'full_adapter_xl' : 'full_adapter';
  if (config.type !== type) {
    throw new MismatchError(
      `${folder}: expected a ${type} for ${base.path}, got a ${config.type}; an adapter for another architecture?`,
    );
  }
  if (config.channels.join() !== channels.join()) {
    throw new MismatchError(
      `${folder}: expected features of ${channels.join(', ')} channels for ${base.path}, got ${config.channels.join(', ')}; an adapter for another architecture?`,
    );
  }
  const wanted = behind ? 2 * factor : factor;
  if (config.downscaleFactor !== wanted) {
    throw new MismatchError(
      `${folder}: expected an adapter of factor ${wanted} for ${base.path}, got ${config.downscaleFactor}`,
    );
  }
}
