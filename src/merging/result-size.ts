/**
 * How large a result's factors are, told from shapes before the work: kinds that are small in a file (LoKr, LoHa) have the
 * full rank once they are plain LoRA, and all layers are in memory until they are written.
 */

import type { AdapterLayer } from '../adapters/adapter.ts';
import type { FactorDType } from '../adapters/encode-layer.ts';
import { factorRank, layerExtent } from '../adapters/layer-limits.ts';
import { UsageError } from '../errors.ts';
import { availableMemory } from '../io/platform/machine.ts';

/** Share of this machine's memory that a result may take. */
const MEMORY_SHARE = 0.5;

/** Layers that become one, and how their ranks make its own. */
export interface ResultLayer {
  readonly parts: readonly AdapterLayer[];
  /** Whether factors are laid side by side, rather than cut or added. */
  readonly added: boolean;
  /** Largest rank that is kept; `null`: as many as there are. */
  readonly rank: number | null;
}

/**
 * @param limit bytes; default half of this machine's memory
 * @throws {UsageError} with both numbers, if the result would not fit
 */
export function refuseLargeResult(
  job: string,
  layers: Iterable<ResultLayer>,
  dtype: FactorDType,
  limit = MEMORY_SHARE * availableMemory(),
): void {
  let numbers = 0;
  for (const layer of layers) numbers += numbersOf(layer);
  const bytes = numbers * (dtype === 'F32' ? 4 : 2);
  if (bytes <= limit) return;
  throw new UsageError(
    `${job}: expected a result of at most ${gigabytes(limit)}, half of this machine's memory, got ${gigabytes(bytes)}: its layers have the full rank; \`rank\` (merge: with \`method: svd\`) keeps less`,
  );
}

function numbersOf({ parts, added, rank }: ResultLayer): number {
  let [m, n, ranks] = [0, 0, 0];
  for (const part of parts) {
    const { shape } = layerExtent(part);
    // (IA)³ is a change of the base's own shape, which is read with it.
    if (shape === null) continue;
    [m, n] = [Math.max(m, shape[0]), Math.max(n, shape[1])];
    const own = factorRank(part);
    ranks = added ? ranks + own : Math.max(ranks, own);
  }
  return Math.min(ranks, m, n, rank ?? Number.POSITIVE_INFINITY) * (m + n);
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
