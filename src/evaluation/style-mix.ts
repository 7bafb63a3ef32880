/**
 * Layer-wise prompt mixing: one prompt for some cross-attention layers, another for the rest. From all-A to all-B, the
 * coarsest layers first, it shows which layers decide what. After P+ (2303.09522), mixing of extended conditioning.
 */

import { UsageError } from '../errors.ts';
import type { Picture } from '../formats/picture.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ClipEncoder } from '../models/clip/clip-encoder.ts';
import type { UnetConfig } from '../models/unet/config.ts';
import { attentionPlaces } from '../models/unet/structure.ts';
import type { Progress } from '../progress.ts';
import type { ExecutionRequest } from '../runtime/execution-context.ts';
import { Pipeline, type PipelineParts } from '../sampling/sample.ts';
import { withDefaults } from '../settings.ts';
import type { EvaluationSampling } from './evaluate.ts';
import { mean, similarities } from './similarity.ts';

/** A prompt and what CLIP is asked about it: CLIP does not know concept words, so name the thing in plain ones. */
export interface MixedPrompt {
  readonly prompt: string;
  /** Default: the prompt itself. */
  readonly described?: string;
}

export interface StyleMixRequest extends ExecutionRequest {
  readonly base: Checkpoint;
  readonly parts?: PipelineParts;
  readonly clip: ClipEncoder;
  readonly a: MixedPrompt;
  readonly b: MixedPrompt;
  /** Numbers of layers switched to B, each a picture per seed. Default: every number from none to all. */
  readonly switched?: readonly number[];
  /** First seed; default 0. */
  readonly seed?: number;
  /** Pictures per number; default 1. */
  readonly count?: number;
  readonly sampling?: EvaluationSampling;
  /** Told of numbers of layers drawn. */
  readonly onProgress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

export interface StyleMixPoint {
  /** Layers that read B: the first so many of the order. */
  readonly switched: number;
  /** One per seed. */
  readonly pictures: readonly Picture[];
  /** Mean cosine of the pictures with each description. */
  readonly toA: number;
  readonly toB: number;
}

export interface StyleMix {
  /** Context indices of the cross-attention layers, coarse to fine: the order of switching. */
  readonly order: readonly number[];
  readonly points: readonly StyleMixPoint[];
}

/** Cross-attention layers by index, the coarsest resolution first; of one resolution in the network's order. */
export function coarseToFine(config: UnetConfig): number[] {
  const places = attentionPlaces(config);
  return places.map((_, index) => index).sort((i, j) => places[j]!.level - places[i]!.level || i - j);
}

/**
 * Draw the strip from all-A to all-B and measure what each picture shows.
 * @throws {UsageError} for impossible numbers of layers
 */
export async function styleMix(request: StyleMixRequest): Promise<StyleMix> {
  const {
    base,
    parts = {},
    clip,
    a,
    b,
    seed = 0,
    count = 1,
    sampling = {},
    runtime,
    threads,
    signal,
  } = request;
  const order = coarseToFine(base.parts.unet.config);
  const numbers = request.switched ?? Array.from({ length: order.length + 1 }, (_, k) => k);
  for (const number of numbers) {
    if (!Number.isInteger(number) || number < 0 || number > order.length) {
      throw new UsageError(`style mix: expected 0 … ${order.length} layers, got ${number}`);
    }
  }
  const texts = await clip.texts([a.described ?? a.prompt, b.described ?? b.prompt]);
  const points: StyleMixPoint[] = [];
  const pipeline = await Pipeline.create(base, withDefaults(parts, { runtime, threads, signal }));
  try {
    for (const switched of numbers) {
      const layerPrompts = new Map(order.slice(0, switched).map((layer) => [layer, b.prompt]));
      const drawn = await pipeline.sample({ ...sampling, prompt: a.prompt, layerPrompts, seed, count });
      const pictures = drawn.map(({ width, height, data }) => ({ width, height, data }));
      const cosines = similarities(await clip.pictures(pictures), texts);
      points.push({
        switched,
        pictures,
        toA: mean(cosines.filter((_, i) => i % 2 === 0)),
        toB: mean(cosines.filter((_, i) => i % 2 === 1)),
      });
      request.onProgress?.({ done: points.length, total: numbers.length });
    }
  } finally {
    await pipeline.dispose();
  }
  return { order, points };
}
