/** Classifier-free guidance. Ho & Salimans 2022 (2207.12598). */

/**
 *   prediction = negative + guidanceScale · (positive − negative)
 *
 * and with `rescale` φ > 0, per picture, brought towards the positive prediction's spread:
 *
 *   φ · prediction · std(positive) / std(prediction) + (1 − φ) · prediction
 *
 * @param output   both predictions, the negative half first, [2 · n, size]
 * @param pictures n
 * Source: 2207.12598, equation 6; rescaling: Lin et al. 2023 (2305.08891), section 3.4.
 */
export function guide(
  output: Float32Array,
  pictures: number,
  guidanceScale: number,
  rescale = 0,
): Float32Array {
  const half = output.length / 2;
  const guided = new Float32Array(half);
  for (let i = 0; i < half; i++) {
    guided[i] = output[i]! + guidanceScale * (output[half + i]! - output[i]!);
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
