/**
 * What every sampler is, and the loop that drives one. A sampler knows the schedule and its update rule; it never sees
 * the network. The loop calls the network through `denoise`, so guidance, regions and adapters are the caller's.
 */
import { NumericalError, UsageError } from '../../errors.ts';

/** What belongs to a run rather than to the model's config. */
export interface SamplerOptions {
  /** DDIM: share of fresh noise, 0 (default) to 1. The other samplers have no use for it. */
  readonly eta?: number;
}

/** Standard normal numbers, as many as there are latents; each call is the generator's next draw. */
export type DrawNoise = () => Float32Array;

/** Result of one update. */
export interface SamplerUpdate {
  /** Latents at the next noise level. */
  readonly latents: Float32Array;
  /** The noise-free latents predicted in this call: what a preview shows. */
  readonly original: Float32Array;
}

/**
 * One update: from the latents before `timesteps[index]` and the network's output there to the latents after it.
 * Multistep rules remember earlier outputs, so a run calls it with consecutive indices.
 */
export type SamplerStep = (
  modelOutput: Float32Array,
  index: number,
  latents: Float32Array,
  drawNoise: DrawNoise,
) => SamplerUpdate;

export interface Sampler {
  /** One per call of the network, in order; fractional for samplers that walk sigmas. */
  readonly timesteps: readonly number[];
  /** Noise levels, float32 values: one per call and the level after the last. `null` where timesteps say it all. */
  readonly sigmas: Float32Array | null;
  /** Standard deviation of the latents to start from: latents = noise · initNoiseSigma. */
  readonly initNoiseSigma: number;
  /** Calls per step of the user's count (2 for Heun); an img2img run skips whole steps. */
  readonly callsPerStep: number;
  /** The latents as the network wants to see them at call `index`. */
  scaleModelInput(latents: Float32Array, index: number): Float32Array;
  /** Clean latents with the noise that they have before call `index`: where an img2img run starts. */
  addNoise(original: Float32Array, noise: Float32Array, index: number): Float32Array;
  /** Begin a run (at `index` 0, or later for img2img). The returned function keeps the run's history. */
  begin(): SamplerStep;
}

/** Latents as they are: the input scaling of samplers in the variance-preserving form. */
export function unscaled(latents: Float32Array): Float32Array {
  return latents;
}

/**
 * First call of an image-to-image run: `strength` 1 runs all steps, 0.3 the last 30 %.
 * @param steps the user's step count
 * @returns index into `sampler.timesteps`
 * @throws {UsageError} for a strength outside (0, 1], or one too small to leave a step
 * Source: diffusers `pipeline_stable_diffusion_img2img.py`, `get_timesteps`.
 */
export function beginIndexFor(sampler: Sampler, steps: number, strength: number): number {
  const kept = Math.min(Math.trunc(steps * strength), steps);
  if (!(strength > 0 && strength <= 1) || kept < 1) {
    throw new UsageError(
      `denoise strength: expected 0 < strength ≤ 1 and strength × ${steps} ≥ 1, got ${strength}`,
    );
  }
  return (steps - kept) * sampler.callsPerStep;
}

/** What a caller learns after every call of the network. */
export interface SamplerProgress extends SamplerUpdate {
  /** Index of the finished call in `sampler.timesteps`. */
  readonly index: number;
  /** Calls of the whole run, `sampler.timesteps.length`. */
  readonly callCount: number;
  readonly timestep: number;
}

export interface RunOptions {
  /**
   * The network: scaled latents and timestep in, its prediction out (noise, velocity or sample, as the config says).
   * It may keep the array only until it resolves.
   */
  readonly denoise: (
    latents: Float32Array,
    timestep: number,
    index: number,
  ) => Promise<Float32Array> | Float32Array;
  /** Used by stochastic samplers only. Default: refuse. */
  readonly drawNoise?: DrawNoise;
  /** Called after each update; a returned promise is awaited (previews). */
  readonly onStep?: (progress: SamplerProgress) => void | Promise<void>;
  /** First call to make; default 0. See `beginIndexFor`. */
  readonly beginIndex?: number;
  /** Stops the run between calls by throwing its reason. */
  readonly signal?: AbortSignal;
}

function refuseNoise(): Float32Array {
  throw new UsageError('sampler: this sampler adds noise at every step; pass drawNoise');
}

/**
 * Run a sampler from given latents to the end.
 * @param latents noise · initNoiseSigma, or `sampler.addNoise(…, beginIndex)`; any number of pictures in one array
 * @throws {NumericalError} as soon as latents stop being finite
 * @throws {UsageError} if the sampler needs noise and no `drawNoise` is given
 */
export async function runSampler(
  sampler: Sampler,
  latents: Float32Array,
  options: RunOptions,
): Promise<Float32Array> {
  const { denoise, drawNoise = refuseNoise, onStep, beginIndex = 0, signal } = options;
  const step = sampler.begin();
  const callCount = sampler.timesteps.length;
  let current = latents;
  for (let index = beginIndex; index < callCount; index++) {
    signal?.throwIfAborted();
    const timestep = sampler.timesteps[index]!;
    const modelOutput = await denoise(sampler.scaleModelInput(current, index), timestep, index);
    const update = step(modelOutput, index, current, drawNoise);
    current = update.latents;
    const bad = current.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      throw new NumericalError(
        `sampler call ${index + 1} of ${callCount} (timestep ${timestep}): latents are not finite; fp16 overflow in the model?`,
        { value: current[bad]! },
      );
    }
    await onStep?.({ ...update, index, callCount, timestep });
  }
  return current;
}
