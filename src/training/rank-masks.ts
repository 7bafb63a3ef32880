/** What a step leaves out: ranks, whole layers, K and V of cross-attention. Drawn per step, for all rows of the batch. */
import type { TorchGenerator } from '../tensor/random.ts';
import type { LayerFactors, RankMask } from './factors.ts';
import type { TrainingSettings } from './options.ts';

export interface DropOptions {
  readonly factors: TrainingSettings['factors'];
  readonly rankDropout: number;
  readonly moduleDropout: number;
  readonly kvDrop: number;
}

/**
 * One mask per layer. DyLoRA (2210.07558) trains the first b of its ranks at a time, b drawn anew for each step.
 * Differs from sd-scripts, whose rank dropout draws per row of the batch; kept ranks are scaled up as there.
 */
export function drawMasks(
  layers: readonly LayerFactors[],
  { factors, rankDropout, moduleDropout, kvDrop }: DropOptions,
  random: TorchGenerator,
): RankMask[] {
  const happens = (chance: number): boolean => chance > 0 && random.rand(1)[0]! < chance;
  return layers.map(({ layer, graphRank }) => {
    const nested = factors === 'dylora' ? random.randint(1, graphRank + 1, 1)[0]! : graphRank;
    const keysOrValues = /\.attn2\.to_[kv]$/.test(layer.layerName);
    if (happens(moduleDropout) || (keysOrValues && happens(kvDrop))) return new Float32Array(graphRank);
    if (nested === graphRank && rankDropout === 0) return null;
    return Float32Array.from({ length: graphRank }, (_, i) =>
      i >= nested || happens(rankDropout) ? 0 : 1 / (1 - rankDropout),
    );
  });
}
