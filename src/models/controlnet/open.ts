/** Opening a ControlNet and checking it against the base it is to guide. */

import { MismatchError } from '../../errors.ts';
import { openShardedOrSingle } from '../../formats/open-tensor-file.ts';
import * as path from '../../io/platform/paths.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { readConfig } from '../config-file.ts';
import type { WeightSource } from '../network.ts';
import { type ControlNetConfig, controlNetFactor, controlNetSchema } from './config.ts';

export interface ControlNet {
  /** Absolute path of its folder. */
  readonly path: string;
  readonly config: ControlNetConfig;
  readonly weights: WeightSource;
}

/**
 * Open a ControlNet: a diffusers folder with `config.json` and `diffusion_pytorch_model.safetensors`.
 * @throws {FormatError} if files are missing or damaged, or it is of another architecture
 */
export async function openControlNet(folder: string): Promise<ControlNet> {
  const absolute = path.resolve(folder);
  const config = await readConfig(path.join(absolute, 'config.json'), controlNetSchema);
  const file = await openShardedOrSingle(absolute, 'diffusion_pytorch_model');
  return { path: absolute, config, weights: { label: file.path, get: (name) => file.tensors.get(name) } };
}

/** @param factor pixels per latent cell of the base. @throws {MismatchError} if its residuals would not fit the UNet */
export function checkControlNetFits(
  { path: folder, config }: ControlNet,
  base: Checkpoint,
  factor: number,
): void {
  const [own, wanted] = [config.unet, base.parts.unet.config];
  const blocks = ({ blocks: list }: typeof own): string =>
    list
      .map(({ channels, crossAttention, transformerDepth: depth = 1 }) =>
        crossAttention ? `${channels}+${depth === 1 ? '' : depth}` : `${channels}`,
      )
      .join(', ');
  if (blocks(own) !== blocks(wanted) || own.layersPerBlock !== wanted.layersPerBlock) {
    throw new MismatchError(
      `${folder}: expected blocks of ${blocks(wanted)} channels for ${base.path}, got ${blocks(own)}; a ControlNet for another architecture?`,
    );
  }
  if (own.crossAttentionDim !== wanted.crossAttentionDim) {
    throw new MismatchError(
      `${folder}: expected text features of width ${wanted.crossAttentionDim}, got ${own.crossAttentionDim}; a ControlNet for another base?`,
    );
  }
  if (own.addedInputs !== wanted.addedInputs || own.sizeEmbeddingDim !== wanted.sizeEmbeddingDim) {
    throw new MismatchError(
      `${folder}: expected ${wanted.addedInputs ?? 'no'} numbers beside the timestep, as ${base.path} reads, got ${own.addedInputs ?? 'none'}; a ControlNet for another family?`,
    );
  }
  if (controlNetFactor(config) !== factor) {
    throw new MismatchError(
      `${folder}: expected a picture embedding of factor ${factor} for ${base.path}, got ${controlNetFactor(config)}`,
    );
  }
}
