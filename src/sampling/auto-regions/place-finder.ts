/** How places are found: what a finder is given, what it gives, and which there are. */
import { oneStepPlaces } from './one-step-places.ts';
import { softPlaces } from './soft-places.ts';
import type { WordMaps } from './word-maps.ts';

export interface PlaceFinder {
  readonly title: string;
  /**
   * By word, how much of every cell is its own, 0 … 1 in steps of 1/255 (what a picture of a mask holds); 1 at most together.
   * @param before what was found when less was heard; null at first
   */
  readonly find: (maps: WordMaps, before: readonly Float32Array[] | null) => readonly Float32Array[];
  /** What earlier steps count for when another is heard, 0 … 1. */
  readonly memory: number;
  /** Whether places are found again while the picture still moves. */
  readonly moves: boolean;
}

export const PLACE_FINDERS = {
  soft: { title: 'soft masks that move with the picture', find: softPlaces, memory: 0.8, moves: true },
  'one-step': { title: 'hard masks from one step', find: oneStepPlaces, memory: 0, moves: false },
} as const satisfies Record<string, PlaceFinder>;

export type PlaceFinderName = keyof typeof PLACE_FINDERS;
