/**
 * Where a UNet takes the features of a T2I-Adapter: each down block one, added to its last layer's output, or behind the
 * downsampling of a block without attention that has one; where the first block is such a one (SDXL), the middle takes one more.
 * Source: diffusers, models/unets/unet_2d_condition.py (`down_intrablock_additional_residuals`).
 */
import type { UnetConfig } from './config.ts';
import { levelSizes } from './structure.ts';

/** A feature [1, channels, height, width]. */
export interface FeatureShape {
  readonly channels: number;
  readonly height: number;
  readonly width: number;
}

/** Whether a down block's feature is added behind its downsampling. */
export function isAddedBehind({ blocks }: UnetConfig, block: number): boolean {
  return !blocks[block]!.crossAttention && block < blocks.length - 1;
}

/** All of them: of the down blocks in order, then the middle's if it takes one. */
export function featureShapes(
  config: UnetConfig,
  latentHeight: number,
  latentWidth: number,
): readonly FeatureShape[] {
  const { blocks } = config;
  const levels = levelSizes(config, latentHeight, latentWidth);
  const ofBlocks = blocks.map(({ channels }, i) => ({
    channels,
    ...levels[isAddedBehind(config, i) ? i + 1 : i]!,
  }));
  const middle = { channels: blocks.at(-1)!.channels, ...levels.at(-1)! };
  return isAddedBehind(config, 0) ? [...ofBlocks, middle] : ofBlocks;
}
