/**
 * Classifier-free guidance: whether a run is guided, and what its prediction is. Ho & Salimans 2022 (2207.12598).
 *
 * Above 1 a run is guided: the network predicts with and without the prompt, and the difference is scaled. At 1 the
 * formula is the prompted prediction itself; below 1 it would draw the prompt less than the prompt alone does, which
 * nobody asks for. So 1 and less mean no guidance everywhere: the prompted prediction alone, at half the cost.
 * Source: diffusers, pipeline_stable_diffusion.py, `do_classifier_free_guidance`.
 */

export interface Guidance {
  /** g; 1 or less is no guidance. */
  readonly scale: number;
  /** φ, 0 … 1. Default 0. */
  readonly rescale?: number;
}

/** The prompted prediction alone. */
export const UNGUIDED: Guidance = { scale: 1 };

/** Whether every picture is predicted twice, without its prompt and with it. */
export function isGuided(scale: number): boolean {
  return scale > 1;
}

/** What a run reads of a pair: both, the negative first; the positive alone where there is no guidance. */
export function guidedPair<T>(scale: number, negative: T, positive: T): T[] {
  return isGuided(scale) ? [negative, positive] : [positive];
}

/**
 *   prediction = negative + g · (positive − negative)
 *
 * and with φ > 0, per picture, brought towards the positive prediction's spread:
 *
 *   φ · prediction · std(positive) / std(prediction) + (1 − φ) · prediction
 *
 * @param output   both predictions, those of the negative first, [2 · n, size]
 * @param pictures n
 * Source: 2207.12598, equation 6; rescaling: Lin et al. 2023 (2305.08891), section 3.4.
 */
export function guide(
  output: Float32Array,
  pictures: number,
  { scale, rescale = 0 }: Guidance,
): Float32Array {
  const half = output.length / 2;
  const guided = new Float32Array(half);
  for (let i = 0; i < half; i++) {
    guided[i] = output[i]! + scale * (output[half + i]! - output[i]!);
  }
  if (rescale === 0) return guided;
  const size = half / pictures;
  for (let b = 0; b < pictures; b++) {
    const own = guided.subarray(b * size, (b + 1) * size);
    const positive = output.subarray(half + b * size, half + (b + 1) * size);
    const factor = (rescale * deviation(positive)) / deviation(own) + 1 - rescale;
    for (let i = 0; i < size; i++) own[i] = own[i]! * factor;
  }
  return guided;
}

/** Sample standard deviation, as torch's `std`. */
function deviation(values: Float32Array): number {
  let mean = 0;
  for (const value of values) mean += value / values.length;
  let square = 0;
  for (const value of values) square += (value - mean) ** 2;
  return Math.sqrt(square / (values.length - 1));
}
