/** Regions whose places nobody drew: what a request says of them, what is checked of it, and how it is drawn. */
import { UsageError } from '../../errors.ts';
import type { ConceptUse } from '../concept-places.ts';
import { MAX_REGIONS } from '../limits.ts';
import { PLACE_FINDERS, type PlaceFinderName } from './place-finder.ts';

/** What stands somewhere in the picture, called by words of the request's prompt. */
export interface WordRegion {
  /** What draws it in its place. */
  readonly prompt: string;
  /** Default: the request's. */
  readonly negativePrompt?: string;
  /** Words of the request's prompt that say where it is. */
  readonly words: readonly string[];
  /** Concepts of the pipeline that act there. Default: those of the context. */
  readonly concepts?: readonly ConceptUse[];
}

export interface AutoRegions {
  readonly regions: readonly WordRegion[];
  /** What draws the rest of the picture, once places are found. */
  readonly background: string;
  /** Whether the picture begins anew, from the same noise, once places are found. Default true. */
  readonly restart?: boolean;
  /** How places are found. Default `soft`. */
  readonly finder?: PlaceFinderName;
}

/** Share of the steps in which found regions keep to themselves unless told otherwise: concepts are made apart, borders blend later. */
export const AUTO_ISOLATE = 0.5;
/** Share of the calls in which the whole prompt draws and is listened to. */
const LOOKING = 0.08;
/** Share of the calls after which places stand still. */
const MOVING = 0.5;

export interface AutoCalls {
  readonly looking: number;
  readonly stillFrom: number;
  readonly isolated: number;
}

/** Which of a run's calls look, move and keep apart. @param isolate share of the calls in which regions keep to themselves */
export function autoCalls({ finder = 'soft' }: AutoRegions, calls: number, isolate: number): AutoCalls {
  const looking = Math.max(1, Math.round(LOOKING * calls));
  const isolated = Math.round(isolate * calls);
  // Regions that keep to themselves have fixed borders.
  const moves = PLACE_FINDERS[finder].moves && isolated === 0;
  return { looking, isolated, stillFrom: moves ? Math.max(looking, Math.round(MOVING * calls)) : 0 };
}

/** @throws {UsageError} for regions without words, too many of them, or a finder that there is not */
export function checkAutoRegions({ regions, finder = 'soft' }: AutoRegions): void {
  if (regions.length === 0 || regions.length > MAX_REGIONS) {
    throw new UsageError(`autoRegions: expected 1 … ${MAX_REGIONS} regions, got ${regions.length}`);
  }
  regions.forEach(({ words }, i) => {
    if (words.length === 0)
      throw new UsageError(`autoRegions: region ${i + 1}: expected words of the prompt, got none`);
  });
  if (!Object.hasOwn(PLACE_FINDERS, finder)) {
    throw new UsageError(
      `autoRegions: finder: expected ${Object.keys(PLACE_FINDERS).join(' or ')}, got "${finder}"`,
    );
  }
}
