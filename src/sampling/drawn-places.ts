/** Regions that were drawn: the same places at every step, kept apart in the first of them. */
import type { CombinedModel } from './combined-model.ts';
import { type ConceptPlacement, conceptMasks, conceptPlacement } from './concept-places.ts';
import type { Arrangement, PicturePlaces } from './picture-places.ts';
import type { Region } from './region.ts';
import { type SharedPicture, sharePicture } from './region-shares.ts';

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
  const shared = (isolated: boolean): SharedPicture => sharePicture(regions, tokens, levels, isolated);
  const together = shared(false);
  const present = sources.map((_, source) => together.layout.levels.some(({ rows }) => rows[source]! > 0));
  const placement =
    models.length === 1 ? conceptPlacement(models[0]!.strengths, present) : underMasks(models);
  const masks = models.map(({ strengths }) =>
    conceptMasks(
      together.weights,
      placement.placed.map((concept) => strengths[concept]!),
    ),
  );
  const arranged = ({ layout, feeds }: SharedPicture): Arrangement => {
    const own = masks.map((model) => ({ ...feeds, ...model }));
    return { layout, placement, listening: null, feeds: (model) => own[model]! };
  };
  const plain = arranged(together);
  const apart = isolatedCalls > 0 ? arranged(shared(true)) : plain;
  return { at: (call) => (call < isolatedCalls ? apart : plain), heard: () => {} };
}

/** One graph for all models: each concept of any of them under a mask of its own. */
function underMasks(models: readonly CombinedModel[]): ConceptPlacement {
  const { strengths } = models[0]!;
  const acting = strengths.flatMap((_, concept) =>
    models.some((model) => model.strengths[concept]!.some((value) => value !== 0)) ? [concept] : [],
  );
  return { everywhere: strengths.map(() => 0), placed: acting };
}
