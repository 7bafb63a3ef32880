/** Noise levels on the log-SNR axis, and differences of model outputs along it: what DPM-Solver and UniPC share. */
import { levelOfSigma } from '../denoiser.ts';
import { combine } from '../linear-combination.ts';

/** A noise level on the log-SNR axis: lambda = log(signal / noise), infinite where the noise is zero. */
export interface LambdaLevel {
  readonly signal: number;
  readonly noise: number;
  readonly lambda: number;
}

/** The levels of a list of sigmas. */
export function lambdaLevels(sigmas: Float32Array): LambdaLevel[] {
  return Array.from(sigmas, (sigma) => ({ ...levelOfSigma(sigma), lambda: -Math.log(sigma) }));
}

/** Divided differences of the model's outputs: D0, and up to two more. */
export interface Differences {
  readonly d0: Float32Array;
  readonly d1: Float32Array | null;
  readonly d2: Float32Array | null;
}

/**
 * Finite differences over the outputs at the last one to three levels, newest first, in units of the coming step h.
 * Source: 2211.01095, algorithm 2; 2206.00927, appendix B (order 3).
 */
export function differences(
  outputs: readonly Float32Array[],
  lambdas: readonly number[],
  nextLambda: number,
): Differences {
  const [m0, m1, m2] = outputs;
  const [lambda0, lambda1, lambda2] = lambdas;
  const h = nextLambda - lambda0!;
  if (m1 === undefined) return { d0: m0!, d1: null, d2: null };
  const r0 = (lambda0! - lambda1!) / h;
  const d10 = combine([1 / r0, m0!], [-1 / r0, m1]);
  if (m2 === undefined) return { d0: m0!, d1: d10, d2: null };
  const r1 = (lambda1! - lambda2!) / h;
  const d11 = combine([1 / r1, m1], [-1 / r1, m2]);
  const blend = r0 / (r0 + r1);
  return {
    d0: m0!,
    d1: combine([1 + blend, d10], [-blend, d11]),
    d2: combine([1 / (r0 + r1), d10], [-1 / (r0 + r1), d11]),
  };
}
