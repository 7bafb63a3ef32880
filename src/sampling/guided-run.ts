/**
 * What is a step: the sampler's latents go to the network in rows, what it predicts is guided, the sampler goes on with
 * that. Drawing, collecting, refining and attention maps are this run, each with its own network and its own look at
 * every step.
 */
import { float32, type Tensor } from '../tensor/tensor.ts';
import type { GuidedRows } from './guided-rows.ts';
import { type DrawNoise, runSampler, type Sampler, type SamplerProgress } from './samplers/sampler.ts';

/** One pass of the network. */
export interface Pass {
  /** Inputs of the network: latents as the sampler scales them, [B, C, h, w], and one timestep for all rows, [B]. */
  readonly feeds: { readonly sample: Tensor<Float32Array>; readonly timestep: Tensor<Float32Array> };
  /** Place of the pass in `sampler.timesteps`. */
  readonly index: number;
}

/** A finished step. */
export interface GuidedStep extends SamplerProgress {
  readonly pass: Pass;
  /** Guided, [n, C, h, w]. */
  readonly prediction: Float32Array;
}

export interface GuidedRun {
  readonly sampler: Sampler;
  readonly rows: GuidedRows;
  /** Latents of one picture, [C, h, w]. */
  readonly shape: readonly number[];
  /** Where it starts: standard normal, [n, C, h, w]. */
  readonly noise: Float32Array;
  /** Image to image: the latents of a picture, [n, C, h, w], and the first call to make. Default: from noise alone. */
  readonly init?: { readonly latents: Float32Array; readonly beginIndex: number };
  /** The network: what it predicts for all rows, [B, C, h, w]. */
  readonly predict: (pass: Pass) => Promise<Float32Array>;
  /** Predictions of the first steps where an earlier run noted them: the network is not asked. Default none. */
  readonly known?: readonly Float32Array[];
  /** Called after each step; a returned promise is awaited. */
  readonly onStep?: (step: GuidedStep) => void | Promise<void>;
  /** Used by stochastic samplers only. Default: refuse. */
  readonly drawNoise?: DrawNoise;
  /** Stops the run between steps by throwing its reason. */
  readonly signal?: AbortSignal;
}

/**
 * Denoise n pictures together.
 * @returns their final latents, [n, C, h, w]
 * @throws as `runSampler`
 */
export function runGuided(run: GuidedRun): Promise<Float32Array> {
  const { sampler, rows, shape, noise, init, predict, known = [], onStep, drawNoise, signal } = run;
  const start =
    init === undefined
      ? noise.map((value) => value * sampler.initNoiseSigma)
      : sampler.addNoise(init.latents, noise, init.beginIndex);
  let pass: Pass;
  let prediction: Float32Array;
  return runSampler(sampler, start, {
    beginIndex: init?.beginIndex,
    drawNoise,
    signal,
    denoise: async (latents, timestep, index) => {
      const sample = rows.both(float32([rows.pictures, ...shape], latents));
      pass = { feeds: { sample, timestep: rows.filled(timestep) }, index };
      prediction = known[index] ?? rows.prediction(await predict(pass));
      return prediction;
    },
    onStep: (progress) => onStep?.({ ...progress, pass, prediction }),
  });
}
