/** A random change of everything in a base that can be kept to a part of a picture. */
import { lowRank } from '../../src/linalg/low-rank.ts';
import { matrix } from '../../src/linalg/matrix.ts';
import type { Checkpoint } from '../../src/models/checkpoint.ts';
import type { ModelDeltas } from '../../src/models/lora.ts';
import { hasNoPlace } from '../../src/models/unet/factor-places.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';

/** A change of rank 2 of every layer that has a place, text encoder included. */
export function randomChange(base: Checkpoint, seed: number): ModelDeltas {
  const random = new TorchGenerator(seed);
  const factor = (rows: number, cols: number) =>
    matrix(
      rows,
      cols,
      Float64Array.from(random.randn(rows * cols), (value) => Math.fround(0.05 * value)),
    );
  const placeable = [...base.parts.layers].filter(({ layerName }) => !hasNoPlace(layerName));
  return new Map(placeable.map(({ id, m, n }) => [id, lowRank(factor(m, 2), factor(2, n))]));
}
