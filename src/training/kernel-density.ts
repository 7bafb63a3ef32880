/**
 * Keeps learned embeddings where words lie: −log of a Gaussian kernel density over the vocabulary's embeddings, one density
 * per feature, as Mix-of-Show's training of P+ has it:
 *
 *   term = −Σ_x log Σ_d mean_v K_h(x_d − v_d),   K_h(u) = exp(−u²/2h²) / (√(2π) h)
 *
 * The vocabulary is binned once per feature (linear binning, Wand & Jones 1995, appendix D): an evaluation then costs
 * some hundred kernels a feature instead of one per word. With bins of h/64 the density differs by less than 1e-4.
 * Source: TencentARC/Mix-of-Show, research_branch, mixofshow/losses/losses.py (KDELoss).
 */
const BINS_PER_BANDWIDTH = 64;

export interface DensityPenalty {
  /** Value of the term, and its gradient added to `gradient`, both times `weight`. */
  penalize(rows: Float32Array, gradient: Float32Array, weight: number): number;
}

interface Histogram {
  readonly start: number;
  /** Share of the words per bin. */
  readonly shares: Float64Array;
}

/** @param table the vocabulary's embeddings, [words, width] */
export function densityPenalty(table: Float32Array, width: number, bandwidth: number): DensityPenalty {
  const words = table.length / width;
  const step = bandwidth / BINS_PER_BANDWIDTH;
  const histograms = Array.from({ length: width }, (_, d): Histogram => {
    let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
    for (let v = 0; v < words; v++) {
      low = Math.min(low, table[v * width + d]!);
      high = Math.max(high, table[v * width + d]!);
    }
    const shares = new Float64Array(Math.ceil((high - low) / step) + 2);
    for (let v = 0; v < words; v++) {
      const place = (table[v * width + d]! - low) / step;
      const bin = Math.floor(place);
      shares[bin]! += (1 - (place - bin)) / words;
      shares[bin + 1]! += (place - bin) / words;
    }
    return { start: low, shares };
  });
  const height = 1 / (Math.sqrt(2 * Math.PI) * bandwidth);
  return {
    penalize(rows, gradient, weight) {
      let total = 0;
      const slopes = new Float64Array(width);
      for (let row = 0; row < rows.length / width; row++) {
        let density = 0;
        for (let d = 0; d < width; d++) {
          const { start, shares } = histograms[d]!;
          const x = rows[row * width + d]!;
          slopes[d] = 0;
          for (let bin = 0; bin < shares.length; bin++) {
            if (shares[bin] === 0) continue;
            const u = (x - (start + bin * step)) / bandwidth;
            const kernel = shares[bin]! * height * Math.exp(-0.5 * u * u);
            density += kernel;
            slopes[d]! -= (kernel * u) / bandwidth;
          }
        }
        total -= weight * Math.log(density);
        for (let d = 0; d < width; d++) gradient[row * width + d]! -= (weight * slopes[d]!) / density;
      }
      return total;
    },
  };
}
