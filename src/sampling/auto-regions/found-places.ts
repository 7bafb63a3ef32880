/**
 * Places that are found while a picture is drawn. In the first calls the whole prompt draws, without the concepts, and is listened to;
 * then each concept has the place that was found for it, which moves with the picture until it stands, or stays where regions
 * are to keep to themselves. Sources: the surroundings, the regions, and last the whole prompt.
 */
import type { Listening } from '../../models/unet/word-shares.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import {
  type ConceptPlacement,
  conceptMasks,
  conceptPlacement,
  type SourceStrengths,
} from '../concept-places.ts';
import type { Arrangement, PicturePlaces } from '../picture-places.ts';
import type { Region, SoftMask } from '../region.ts';
import { type SharingOptions, shareWeights, sourceWeights } from '../region-shares.ts';
import type { WordListener } from '../word-listening.ts';
import type { MapSize } from './map-numbers.ts';
import { type PlaceDoubt, placeDoubts } from './place-doubts.ts';
import type { PlaceFinder } from './place-finder.ts';
import { WordMaps } from './word-maps.ts';

type Feeds = Readonly<Record<string, Tensor>>;

export interface FoundRequest {
  readonly finder: PlaceFinder;
  /** Words that are listened to, each a region. */
  readonly words: number;
  readonly levels: readonly MapSize[];
  /** Text positions of the sources. */
  readonly tokens: readonly number[];
  readonly strengths: SourceStrengths;
  readonly listener: WordListener;
  /** Calls that are drawn by the whole prompt. */
  readonly lookingCalls: number;
  /** Call from which places stand still. */
  readonly stillFrom: number;
  /** Calls, from the first on, in which regions keep to themselves once they are found. */
  readonly isolatedCalls: number;
}

export interface FoundPlace {
  readonly mask: SoftMask;
  /** Of the picture, 0 … 1. */
  readonly share: number;
  /** What makes the place a guess; null where nothing does. */
  readonly doubt: PlaceDoubt;
}

export class FoundPlaces implements PicturePlaces {
  readonly #request: FoundRequest;
  readonly #maps: WordMaps;
  readonly #placement: ConceptPlacement;
  readonly #looking: Arrangement;
  #masks: readonly Float32Array[] | null = null;
  #doubts: readonly PlaceDoubt[] = [];
  /** Whether more was heard since masks were made. */
  #news = false;
  #drawn: Arrangement | null = null;
  readonly #apart = new Map<boolean, Arrangement>();
  #started = false;

  constructor(request: FoundRequest) {
    const { words, levels, strengths, tokens } = request;
    this.#request = request;
    this.#maps = new WordMaps(words, levels, request.finder.memory);
    this.#placement = conceptPlacement(
      strengths,
      tokens.map(() => true),
    );
    const whole = levels.map(({ height, width }) =>
      tokens.map((_, source) => new Float32Array(height * width).fill(source === words + 1 ? 1 : 0)),
    );
    this.#looking = this.#arranged(whole, { everywhere: this.#oneGraph }, request.listener.setup);
  }

  /** Draw from the first call on in the places that were found. */
  restart(): void {
    this.#started = true;
  }

  /** By word: what was found, and whether what was told of it says so. */
  get found(): readonly FoundPlace[] {
    return this.masks.map((mask, word) => ({
      mask,
      share: mask.data.reduce((sum, value) => sum + value, 0) / mask.data.length,
      doubt: this.#doubts[word]!,
    }));
  }

  /** By word: what was found, on the cells of the latents. */
  get masks(): readonly SoftMask[] {
    if (this.#news || this.#masks === null) this.#masks = this.#request.finder.find(this.#maps, this.#masks);
    this.#news = false;
    return this.#masks.map((data) => ({ ...this.#maps.size, data }));
  }

  /**
   * Whether one graph serves all calls of all pictures: every source computed everywhere, and telling also when nobody listens. That is a few
   * per cent of a call, and loading a graph for each picture's places takes as long as several calls. Regions that keep to themselves
   * have graphs of their own.
   */
  get #oneGraph(): boolean {
    return this.#request.isolatedCalls === 0;
  }

  at(call: number): Arrangement {
    const { lookingCalls, isolatedCalls, listener } = this.#request;
    if (call < lookingCalls && !this.#started) return this.#looking;
    if (this.#oneGraph) {
      this.#drawn ??= this.#arranged(this.#weights(), { everywhere: true }, listener.setup);
      return this.#drawn;
    }
    const isolated = call < isolatedCalls;
    const known = this.#apart.get(isolated) ?? this.#arranged(this.#weights(), { isolated }, null);
    this.#apart.set(isolated, known);
    return known;
  }

  heard(call: number, outputs: Feeds): void {
    const { lookingCalls, stillFrom, listener } = this.#request;
    if (this.#started ? call >= stillFrom : call >= Math.max(lookingCalls, stillFrom)) return;
    this.#maps.add(listener.heard(outputs));
    // Once places are drawn, words are told where they were put.
    if (call < lookingCalls && !this.#started) this.#doubts = placeDoubts(this.#maps);
    this.#news = true;
    this.#drawn = null;
  }

  #weights(): Float32Array[][] {
    const regions = this.masks.map((mask): Region => ({ prompt: '', shape: { kind: 'mask', mask } }));
    return this.#request.levels.map(({ height, width }) => [
      ...sourceWeights(regions, height, width),
      new Float32Array(height * width),
    ]);
  }

  #arranged(weights: Float32Array[][], options: SharingOptions, listening: Listening | null): Arrangement {
    const { tokens, levels, strengths, words, listener } = this.#request;
    const { layout, feeds } = shareWeights(weights, tokens, levels, options);
    const placed = this.#placement.placed.map((concept) => strengths[concept]!);
    const own = { ...feeds, ...conceptMasks(weights, placed) };
    return {
      layout,
      placement: this.#placement,
      listening,
      feeds: (_, texts) => (listening === null ? own : { ...own, ...listener.feeds(texts, words + 1) }),
    };
  }
}
