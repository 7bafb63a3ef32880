/** Whether a request fits into this machine's memory. */
import { UsageError } from '../errors.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { guidedPair } from './guidance.ts';
import { GuidedRows } from './guided-rows.ts';
import { MAX_MASK_PIXELS } from './limits.ts';
import { checkMemory, windowedTokens } from './memory-need.ts';
import type { ResolvedRequest } from './request.ts';

/** What decides how much memory a request needs. */
export type SizedRequest = Pick<
  ResolvedRequest,
  'width' | 'height' | 'prompt' | 'layerPrompts' | 'guidanceScale' | 'batchSize' | 'count'
> & {
  readonly negativePrompt?: string;
  readonly prompt2?: string;
  readonly negativePrompt2?: string;
  readonly regions: readonly SizedText[];
  readonly autoRegions?: { readonly regions: readonly SizedText[] };
};

interface SizedText {
  readonly prompt: string;
  readonly negativePrompt?: string;
}

/** Masks as large as the picture that a request holds. */
export function maskCount({ regions, adapters }: Pick<ResolvedRequest, 'regions' | 'adapters'>): number {
  const strengths = adapters.flatMap(({ regionStrengths = [] }) => regionStrengths);
  return [...regions, ...strengths].filter(({ shape }) => shape.kind === 'mask').length;
}

/** @throws {UsageError} if the request's masks are too many, or drawing it needs more memory than there is */
export async function checkRequestMemory(
  request: SizedRequest,
  masks: number,
  base: Checkpoint,
  factor: number,
): Promise<void> {
  const { width, height, prompt, negativePrompt = '', prompt2 = '', negativePrompt2 = '' } = request;
  const { layerPrompts, regions, autoRegions: auto, guidanceScale: scale } = request;
  if (masks * width * height > MAX_MASK_PIXELS) {
    throw new UsageError(
      `regions: expected masks, polygons and soft boxes of at most ${MAX_MASK_PIXELS} pixels together, got ${masks} of ${width} × ${height}; use plain boxes, or a smaller picture`,
    );
  }
  const group = (positive: string, negative: string): string[] => guidedPair(scale, negative, positive);
  // Layers' own prompts are not counted each: every layer reads one of them.
  const groups = [
    group(longest([prompt, prompt2, ...layerPrompts.values()]), longest([negativePrompt, negativePrompt2])),
    ...[...regions, ...(auto === undefined ? [] : [...auto.regions, { prompt }])].map((region) =>
      group(region.prompt, region.negativePrompt ?? negativePrompt),
    ),
  ];
  checkMemory({
    width,
    height,
    factor,
    rows: new GuidedRows(Math.min(request.batchSize, request.count), { scale }).count,
    tokens: windowedTokens(groups, base.tokenizer, base.parts.maxPositions),
    masks,
    unet: base.parts.unet.config,
    vae: (await base.parts.vae()).config,
  });
}

const longest = (texts: readonly string[]): string =>
  texts.reduce((most, text) => (text.length > most.length ? text : most), '');
