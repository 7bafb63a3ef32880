/**
 * Do learned embeddings lie where words lie? Gaussian kernel density over the vocabulary's embeddings, as P+
 * (2303.09522) compares textual inversions with its extended ones.
 */
import { MismatchError, UsageError } from '../errors.ts';
import { readFloat32, sliceRows } from '../formats/raw-tensor.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { TOKEN_TABLE } from '../models/clip/text-encoder.ts';
import type { ComponentId } from '../models/families/layer-table.ts';
import { quantile } from './bootstrap.ts';

/** Rows of the vocabulary read at once. */
const CHUNK = 4096;
/** Vocabulary words whose own densities stand beside the learned ones. */
const COMPARED_WORDS = 256;

export interface DensityOptions {
  /** Whose vocabulary. Default: the first text encoder's. */
  readonly encoder?: ComponentId;
  /**
   * Kernel width h, in the embeddings' unit. Default: Scott's rule, σ · n^(−1/(D+4)), with σ the root mean square of
   * the deviations from the mean embedding.
   */
  readonly bandwidth?: number;
}

export interface VocabularyDensity {
  readonly bandwidth: number;
  /** Vocabulary size n and width D. */
  readonly words: number;
  readonly width: number;
  /**
   * log p of each row: log (1/n) Σ_v exp(−‖x − v‖² / 2h²) − (D/2) log(2πh²).
   * @param rows [count, D]
   * @throws {MismatchError} unless the rows have the vocabulary's width
   */
  logDensity(rows: Float32Array): Float64Array;
  /** 5th, 50th and 95th percentile of the log-density of vocabulary words, each among the others. */
  readonly vocabulary: { readonly low: number; readonly median: number; readonly high: number };
}

/**
 * Fit the density to the token embeddings of a model (added words of earlier fusions included, as they lie in its table).
 * @throws {UsageError} for a bandwidth that is not positive; {MissingWeightError | MismatchError} if there is no table
 */
export function vocabularyDensity(base: Checkpoint, options: DensityOptions = {}): VocabularyDensity {
  const { textEncoders } = base.parts;
  const { encoder = textEncoders.keys().next().value! } = options;
  const raw = textEncoders.get(encoder)?.weights.get(TOKEN_TABLE);
  if (raw === undefined || raw.shape.length !== 2) {
    throw new MismatchError(
      `${base.path}: ${encoder}: expected a token embedding table [words, D], got none`,
    );
  }
  const [words, width] = raw.shape as [number, number];
  const chunks = function* (): Generator<Float32Array> {
    for (let start = 0; start < words; start += CHUNK) {
      yield readFloat32(sliceRows(raw, start, Math.min(CHUNK, words - start)));
    }
  };
  const bandwidth = options.bandwidth ?? deviation(chunks, words, width) * words ** (-1 / (width + 4));
  if (!(bandwidth > 0 && Number.isFinite(bandwidth))) {
    throw new UsageError(`bandwidth: expected a positive number, got ${bandwidth}`);
  }
  const offset = -(width / 2) * Math.log(2 * Math.PI * bandwidth ** 2);
  return {
    bandwidth,
    words,
    width,
    logDensity(rows) {
      if (rows.length % width !== 0) {
        throw new MismatchError(`embeddings: expected rows of ${width} numbers, got ${rows.length} in all`);
      }
      const { peak, sum } = kernelSums(rows, chunks, width, bandwidth);
      return peak.map((most, i) => most + Math.log(sum[i]! / words) + offset);
    },
    get vocabulary() {
      const count = Math.min(COMPARED_WORDS, words);
      const own = Int32Array.from({ length: count }, (_, i) => Math.floor((i * words) / count));
      const rows = new Float32Array(count * width);
      own.forEach((word, i) => {
        rows.set(readFloat32(sliceRows(raw, word, 1)), i * width);
      });
      const { peak, sum } = kernelSums(rows, chunks, width, bandwidth, own);
      const others = peak.map((most, i) => most + Math.log(sum[i]! / (words - 1)) + offset).sort();
      return { low: quantile(others, 0.05), median: quantile(others, 0.5), high: quantile(others, 0.95) };
    },
  };
}

/** Root mean square deviation of single numbers from the mean embedding. */
function deviation(chunks: () => Generator<Float32Array>, words: number, width: number): number {
  const sum = new Float64Array(width);
  let squares = 0;
  for (const chunk of chunks()) {
    for (let i = 0; i < chunk.length; i++) {
      sum[i % width]! += chunk[i]!;
      squares += chunk[i]! ** 2;
    }
  }
  const means = sum.reduce((total, value) => total + (value / words) ** 2, 0);
  return Math.sqrt((squares / words - means) / width);
}

/**
 * Σ_v exp(e_v − peak) with e_v = −‖x − v‖² / 2h² and its largest value, so that nothing underflows.
 * @param skipped per row a vocabulary row to leave out
 */
function kernelSums(
  rows: Float32Array,
  chunks: () => Generator<Float32Array>,
  width: number,
  bandwidth: number,
  skipped?: Int32Array,
): { peak: Float64Array; sum: Float64Array } {
  const count = rows.length / width;
  const peak = new Float64Array(count).fill(Number.NEGATIVE_INFINITY);
  const sum = new Float64Array(count);
  const scale = -1 / (2 * bandwidth ** 2);
  let first = 0;
  for (const chunk of chunks()) {
    for (let i = 0; i < count; i++) {
      const skip = skipped === undefined ? -1 : (skipped[i]! - first) * width;
      for (let v = 0; v < chunk.length; v += width) {
        if (v === skip) continue;
        let distance = 0;
        for (let k = 0; k < width; k++) distance += (rows[i * width + k]! - chunk[v + k]!) ** 2;
        const exponent = scale * distance;
        if (exponent > peak[i]!) {
          sum[i] = sum[i]! * Math.exp(peak[i]! - exponent) + 1;
          peak[i] = exponent;
        } else {
          sum[i]! += Math.exp(exponent - peak[i]!);
        }
      }
    }
    first += chunk.length / width;
  }
  return { peak, sum };
}
