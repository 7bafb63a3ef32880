/** Regions that were drawn: the same places at every step, kept apart in the first of them. */
import type { CombinedModel } from './combined-model.ts';
import { type ConceptPlacement, conceptMasks, conceptPlacement } from './concept-places.ts';
import type { Arrangement, PicturePlaces } from './picture-places.ts';
import type { Region } from './region.ts';
import { sharePicture } from './region-shares.ts';

export interface DrawnRequest {
  readonly regions: readonly Region[];
  /** Calls of the UNet, from the first on, in which regions keep to themselves. */
  readonly isolatedCalls: number;
  readonly models: readonly CombinedModel[];
  /** Size of the UNet's latents at each level. */
  readonly levels: readonly { readonly height: number; readonly width: number }[];
}

export function drawnPlaces({ regions, isolatedCalls, models, levels }: DrawnRequest): PicturePlaces {
  const { sources } = models[0]!;
  const tokens = sources.map((contexts) => contexts[0]!.context.shape[2]!);
  const shared = sharePicture(regions, tokens, levels, false);
  const { layout, weights } = shared;
  const present = sources.map((_, source) => layout.levels.some(({ rows }) => rows[source]! > 0));
  const placement =
    models.length === 1 ? conceptPlacement(models[0]!.strengths, present) : underMasks(models);
  const masks = models.map(({ strengths }) =>
    conceptMasks(
      weights,
      placement.placed.map((concept) => strengths[concept]!),
    ),
  );
  const arranged = (isolated: boolean): Arrangement => {
    const own = isolated ? sharePicture(regions, tokens, levels, true) : shared;
    const feeds = masks.map((model) => ({ ...own.feeds, ...model }));
    return { layout: own.layout, placement, listening: null, feeds: (model) => feeds[model]! };
  };
  const together = arranged(false);
  const apart = isolatedCalls > 0 ? arranged(true) : together;
  return { at: (call) => (call < isolatedCalls ? apart : together), heard: () => {} };
}

/** One graph for all models: each concept of any of them under a mask of its own. */
function underMasks(models: readonly CombinedModel[]): ConceptPlacement {
  const { strengths } = models[0]!;
  const acting = strengths.flatMap((_, concept) =>
    models.some((model) => model.strengths[concept]!.some((value) => value !== 0)) ? [concept] : [],
  );
  return { everywhere: strengths.map(() => 0), placed: acting };
}
