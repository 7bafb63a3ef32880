/**
 * UniPC: a multistep predictor, and a corrector that reuses the next call's output. Zhao et al. 2023 (2302.04867).
 */
import { predictNoise, predictOriginal } from '../denoiser.ts';
import { combine, type Term } from '../linear-combination.ts';
import { solverSigmas } from '../noise-schedule.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import { type LambdaLevel, lambdaLevels } from './log-snr.ts';
import { type Sampler, unscaled } from './sampler.ts';

/** Solve Σ_j nodes_j^k · x_j = values_k, k = 0 … n−1, by elimination with pivoting; n is the solver's order. */
function solveVandermonde(nodes: readonly number[], values: readonly number[]): number[] {
  const n = nodes.length;
  const rows = values.map((value, k) => [...nodes.map((node) => node ** k), value]);
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let row = column + 1; row < n; row++) {
      if (Math.abs(rows[row]![column]!) > Math.abs(rows[pivot]![column]!)) pivot = row;
    }
    [rows[column], rows[pivot]] = [rows[pivot]!, rows[column]!];
    for (let row = 0; row < n; row++) {
      if (row === column) continue;
      const factor = rows[row]![column]! / rows[column]![column]!;
      for (let k = column; k <= n; k++) rows[row]![k] = rows[row]![k]! - factor * rows[column]![k]!;
    }
  }
  return rows.map((row, k) => row[n]! / row[k]!);
}

/** The part of an update that depends on levels only. `hh` is ±h: the sign of the exponent in the chosen form. */
interface StepSize {
  readonly hh: number;
  /** B(h) of the paper: h for bh1, e^h − 1 for bh2. */
  readonly bh: number;
}

/** Right-hand side b_k = k! · φ_{k+1}(hh) · hh / B(h), k = 1 … order. Source: 2302.04867, theorem 3.1. */
function rightHandSide({ hh, bh }: StepSize, order: number): number[] {
  const values: number[] = [];
  let phi = Math.expm1(hh) / hh - 1;
  let factorial = 1;
  for (let k = 1; k <= order; k++) {
    values.push((phi * factorial) / bh);
    factorial *= k + 1;
    phi = phi / hh - 1 / factorial;
  }
  return values;
}

/** Outputs and levels of the calls that a step builds on, newest first. */
interface History {
  readonly outputs: readonly Float32Array[];
  readonly levels: readonly LambdaLevel[];
}

/**
 * UniPC of the config's order, `bh1` or `bh2`, in the data form (`predict_x0`) or the noise form.
 *
 *   x' = σ'/σ · x − α'(e^hh − 1) m0 − α' B(h) Σ_k rho_k D_k,   hh = −h      (data; noise: α ↔ σ, hh = h)
 *   D_k = (m_k − m0) / r_k,   r_k = (lambda_k − lambda_0) / h
 *
 * Differs from the library: a last step to sigma 0 is first order always; there `bh1`, or `lower_order_final` off, makes
 * NaN of it.
 *
 * @throws {UsageError} for an impossible step count
 * Source: 2302.04867, algorithms 1, 5 and 6; numbers as diffusers `scheduling_unipc_multistep.py`.
 */
export function unipc(config: SchedulerOptions, steps: number): Sampler {
  const { predictionType, predictX0, solverOrder } = config;
  const { timesteps, sigmas } = solverSigmas(config, steps, { endAtLast: true });
  const levels = lambdaLevels(sigmas);

  function update(
    latents: Float32Array,
    { outputs, levels: known }: History,
    next: LambdaLevel,
    /** The output at `next`, for the corrector. */
    arrived: Float32Array | null,
  ): Float32Array {
    const base = known[0]!;
    const m0 = outputs[0]!;
    const order = outputs.length;
    const h = next.lambda - base.lambda;
    const hh = predictX0 ? -h : h;
    const size: StepSize = { hh, bh: config.solverType === 'bh1' ? hh : Math.expm1(hh) };
    const scale = predictX0 ? next.signal : next.noise;
    const ratio = predictX0 ? next.noise / base.noise : next.signal / base.signal;
    const terms: Term[] = [
      [ratio, latents],
      [-scale * Math.expm1(hh), m0],
    ];
    const nodes = known.slice(1).map((level) => (level.lambda - base.lambda) / h);
    const corrects = arrived !== null;
    const unknowns = corrects ? order : order - 1;
    // The shortest systems are taken as one half instead of being solved, as in the paper's appendix.
    const weights =
      unknowns === 1
        ? [0.5]
        : solveVandermonde(corrects ? [...nodes, 1] : nodes, rightHandSide(size, order).slice(0, unknowns));
    nodes.forEach((node, k) => {
      const weight = (-scale * size.bh * weights[k]!) / node;
      terms.push([weight, outputs[k + 1]!], [-weight, m0]);
    });
    if (corrects) {
      const weight = -scale * size.bh * weights[order - 1]!;
      terms.push([weight, arrived], [-weight, m0]);
    }
    return combine(...terms);
  }

  return {
    timesteps,
    sigmas,
    initNoiseSigma: 1,
    callsPerStep: 1,
    scaleModelInput: unscaled,
    addNoise: (original, noise, index) =>
      combine([levels[index]!.signal, original], [levels[index]!.noise, noise]),
    begin: () => {
      /** Converted outputs, newest first. */
      let outputs: Float32Array[] = [];
      let last: { readonly latents: Float32Array; readonly order: number } | null = null;
      const historyOf = (order: number, newest: number): History => ({
        outputs: outputs.slice(0, order),
        levels: Array.from({ length: order }, (_, back) => levels[newest - back]!),
      });
      return (modelOutput, index, latents) => {
        const level = levels[index]!;
        const original = predictOriginal(predictionType, modelOutput, latents, level);
        const output = predictX0 ? original : predictNoise(predictionType, modelOutput, latents, level);
        const corrected =
          last === null || config.disableCorrector.includes(index - 1)
            ? latents
            : update(last.latents, historyOf(last.order, index - 1), level, output);
        outputs = [output, ...outputs].slice(0, solverOrder);
        const toZero = sigmas[index + 1] === 0;
        const remaining = config.lowerOrderFinal ? timesteps.length - index : solverOrder;
        const order = toZero ? 1 : Math.min(solverOrder, remaining, outputs.length);
        last = { latents: corrected, order };
        return { latents: update(corrected, historyOf(order, index), levels[index + 1]!, null), original };
      };
    },
  };
}
