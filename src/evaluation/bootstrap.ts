/** How sure a mean is: bootstrap intervals over prompts. */
import { ShapeError, UsageError } from '../errors.ts';
import { TorchGenerator } from '../tensor/random.ts';

/** A mean and the ends of its interval. */
export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

export interface BootstrapOptions {
  /** Share of resamples inside the interval, between 0 and 1. Default 0.95. */
  readonly level?: number;
  /** Default 2000. */
  readonly resamples?: number;
  /** Default 0. Equal seeds give equal intervals. */
  readonly seed?: number;
}

/**
 * Percentile interval of the mean. Samples of one prompt resemble each other, so whole prompts are drawn with
 * replacement (cluster bootstrap), not single samples; with one prompt alone, samples are.
 * @param values one per sample
 * @param groups which prompt each sample belongs to
 * @throws {ShapeError} if there is not one group per value; {UsageError} for no values or an impossible level
 * Source: Efron & Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile interval).
 */
export function bootstrapMean(
  values: ArrayLike<number>,
  groups: readonly number[],
  { level = 0.95, resamples = 2000, seed = 0 }: BootstrapOptions = {},
): Interval {
  if (groups.length !== values.length) {
    throw new ShapeError(`bootstrap: expected ${values.length} groups, got ${groups.length}`);
  }
  if (values.length === 0) throw new UsageError('bootstrap: expected at least one value');
  if (!(level > 0 && level < 1))
    throw new UsageError(`bootstrap: expected a level between 0 and 1, got ${level}`);
  const alone = new Set(groups).size === 1;
  const totals = new Map<number, { sum: number; count: number }>();
  let whole = 0;
  groups.forEach((group, i) => {
    const key = alone ? i : group;
    const total = totals.get(key) ?? { sum: 0, count: 0 };
    total.sum += values[i]!;
    total.count++;
    totals.set(key, total);
    whole += values[i]!;
  });
  const clusters = [...totals.values()];
  const generator = new TorchGenerator(seed);
  const means = Float64Array.from({ length: resamples }, () => {
    let [sum, count] = [0, 0];
    for (const pick of generator.randint(0, clusters.length, clusters.length)) {
      sum += clusters[pick]!.sum;
      count += clusters[pick]!.count;
    }
    return sum / count;
  }).sort();
  return {
    mean: whole / values.length,
    low: quantile(means, (1 - level) / 2),
    high: quantile(means, (1 + level) / 2),
  };
}

/** Linear between ranks, as NumPy's default. @param sorted ascending, not empty */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  const rank = share * (sorted.length - 1);
  const below = Math.floor(rank);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (rank - below) * (sorted[above]! - sorted[below]!);
}
