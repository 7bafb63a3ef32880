/** What a base's weights take once they are float32, and whether that leaves room for work with them. */
import { availableMemory } from '../io/platform/machine.ts';
import { halvesAreWidenedInRuns } from '../runtime/half-weights.ts';
import type { Checkpoint } from './checkpoint.ts';

/** Of the memory. What is computed takes about as much again where a way back wants it. */
const MUCH = 0.5;

/** Bytes in float32 of the half-width layers of its UNet and text encoders. */
export function wideBytes({ parts }: Checkpoint): number {
  let count = 0;
  for (const { weights, layers } of [parts.unet, ...parts.textEncoders.values()]) {
    for (const { layerName, m, n } of layers.values()) {
      const dtype = weights.get(`${layerName}.weight`)?.dtype;
      if (dtype === 'F16' || dtype === 'BF16') count += m * n;
    }
  }
  return 4 * count;
}

/**
 * What to say before a job loads all of a base; null where weights leave room, or stay half.
 * @param memory bytes. Default: those of this machine
 */
export function leanAdvice(base: Checkpoint, memory = availableMemory()): string | null {
  const wide = wideBytes(base);
  if (wide <= MUCH * memory || halvesAreWidenedInRuns()) return null;
  const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
  return `${base.path}: half-width weights take ${gigabytes(wide)} of ${gigabytes(memory)} of memory once they are widened; \`withLeanWeights\` keeps them as they are`;
}
