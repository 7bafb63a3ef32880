/**
 * What the network is asked to predict, and how much each element counts. Every loss of this folder is
 * Σ weight · (prediction − target)² with weights [B, 1, h, w] shared by the channels, so one graph serves them all.
 */
import { NumericalError } from '../errors.ts';
import { addNoise, type NoiseSchedule } from '../sampling/noise-schedule.ts';

/** mean((prediction − target)²) over everything, in the batch's own share `rows` of a loss. */
export function plainWeights(rows: number, channels: number, cells: number, share = 1): Float32Array {
  return new Float32Array(rows * cells).fill(share / (rows * channels * cells));
}

/**
 * Mean over the batch of Σ (prediction − target)² · mask / Σ mask. The mask has one channel, so that the value is as
 * many times a mean over elements as there are channels: 4 for SD 1.x.
 * Source: TencentARC/Mix-of-Show, trainer_edlora.py.
 * @param masks [rows, cells]
 * @throws {NumericalError} if a mask is empty
 */
export function maskedWeights(masks: Float32Array, rows: number, share = 1): Float32Array {
  const cells = masks.length / rows;
  const weights = new Float32Array(masks.length);
  for (let b = 0; b < rows; b++) {
    let total = 0;
    for (let i = 0; i < cells; i++) total += masks[b * cells + i]!;
    if (!(total > 0)) throw new NumericalError(`mask of row ${b}: expected some cells that count, got none`);
    for (let i = 0; i < cells; i++) weights[b * cells + i] = (share * masks[b * cells + i]!) / (rows * total);
  }
  return weights;
}

/**
 * Rows scaled by min(SNR, γ) / SNR of their timesteps, over SNR + 1 where v is predicted: those with little noise, whose
 * loss says least of the picture, count less.
 * Source: Min-SNR weighting, 2303.09556, section 3.4; kohya-ss/sd-scripts, library/custom_train_functions.py.
 * @param weights [rows, cells]
 * @param gamma 0 leaves the weights as they are
 */
export function weightedBySnr(
  weights: Float32Array,
  timesteps: readonly number[],
  { alphasCumprod }: NoiseSchedule,
  prediction: PredictionType,
  gamma: number,
): Float32Array {
  if (gamma === 0) return weights;
  const cells = weights.length / timesteps.length;
  const shares = timesteps.map((timestep) => {
    const alpha = alphasCumprod[timestep]!;
    const snr = alpha / (1 - alpha);
    return prediction === 'epsilon' ? Math.min(1, gamma / snr) : Math.min(snr, gamma) / (snr + 1);
  });
  return weights.map((weight, i) => weight * shares[Math.floor(i / cells)]!);
}

export type PredictionType = 'epsilon' | 'v_prediction';

/** Rows of latents at their own timesteps. */
export interface NoisyBatch {
  readonly noisy: Float32Array;
  readonly target: Float32Array;
}

/**
 * Noise latents and say what is to be predicted: the noise, or v = √ᾱ · noise − √(1 − ᾱ) · latents (2202.00512).
 * @param latents [rows, …] scaled, @param noise of the same size, @param timesteps one per row
 */
export function noisyBatch(
  schedule: NoiseSchedule,
  latents: Float32Array,
  noise: Float32Array,
  timesteps: readonly number[],
  prediction: PredictionType,
): NoisyBatch {
  const size = latents.length / timesteps.length;
  const noisy = new Float32Array(latents.length);
  const target = new Float32Array(latents.length);
  timesteps.forEach((timestep, b) => {
    const own = [b * size, (b + 1) * size] as const;
    const [z, e] = [latents.subarray(...own), noise.subarray(...own)];
    noisy.set(addNoise(schedule, z, e, timestep), own[0]);
    if (prediction === 'epsilon') {
      target.set(e, own[0]);
      return;
    }
    const alpha = schedule.alphasCumprod[timestep]!;
    const [signal, sigma] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)];
    for (let i = 0; i < size; i++) target[own[0] + i] = signal * e[i]! - sigma * z[i]!;
  });
  return { noisy, target };
}
