/**
 * Places that are found while a picture is drawn. In the first calls the whole prompt draws, without the concepts, and is listened to;
 * then each concept has the place that was found for it, which moves with the picture until it stands, or stays where regions
 * are to keep to themselves. Sources: the surroundings, the regions, and last the whole prompt, which is never drawn beside the others.
 *
 * One network looks and one draws in any places, as loading one takes as long as several calls of it, and computing what no place needs takes
 * less. Where places are kept apart a network is written for their borders.
 */
import { plainLayout, sourceInputs } from '../../models/unet/region-attention.ts';
import { timeIdsInput } from '../../models/unet/time-embedding.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import {
  type ConceptPlacement,
  conceptMasks,
  conceptPlacement,
  type SourceStrengths,
} from '../concept-places.ts';
import type { Arrangement, PicturePlaces } from '../picture-places.ts';
import type { Region, RegionShape, SoftMask } from '../region.ts';
import { shareAnyPicture, sharePicture } from '../region-shares.ts';
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
  /** Names of the cross-attentions. */
  readonly attentions: readonly string[];
  /** Calls that are drawn by the whole prompt. */
  readonly lookingCalls: number;
  /** Call from which places stand still. */
  readonly stillFrom: number;
  /** Calls, from the first on, in which regions keep to themselves once they are found. */
  readonly isolatedCalls: number;
  /** What a region is told of its size while it keeps to itself, [B, 6]; undefined where nothing is read of it. */
  readonly toldSizes: (shape: RegionShape) => Tensor | undefined;
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
  /** Text positions of what is drawn at once: all sources but the whole prompt. */
  readonly #tokens: readonly number[];
  readonly #looking: Arrangement;
  #masks: readonly Float32Array[] | null = null;
  #doubts: readonly PlaceDoubt[] = [];
  /** Whether more was heard since masks were made. */
  #news = false;
  readonly #drawn = new Map<boolean, Arrangement>();
  #started = false;

  constructor(request: FoundRequest) {
    const { words, levels, strengths, tokens } = request;
    this.#request = request;
    this.#maps = new WordMaps(words, levels, request.finder.memory);
    this.#tokens = tokens.slice(0, -1);
    this.#placement = conceptPlacement(
      strengths.map((own) => own.slice(0, -1)),
      this.#tokens.map(() => true),
    );
    this.#looking = lookingAlone(request);
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

  at(call: number): Arrangement {
    const { lookingCalls, isolatedCalls } = this.#request;
    if (call < lookingCalls && !this.#started) return this.#looking;
    const isolated = call < isolatedCalls;
    const known = this.#drawn.get(isolated) ?? this.#drawing(isolated);
    this.#drawn.set(isolated, known);
    return known;
  }

  heard(call: number, outputs: Feeds): void {
    const { lookingCalls, stillFrom, listener } = this.#request;
    if (this.#started ? call >= stillFrom : call >= Math.max(lookingCalls, stillFrom)) return;
    this.#maps.add(listener.heard(outputs));
    // Once places are drawn, words are told where they were put.
    if (call < lookingCalls && !this.#started) this.#doubts = placeDoubts(this.#maps);
    this.#news = true;
    this.#drawn.clear();
  }

  /** @param isolated whether regions keep to themselves */
  #drawing(isolated: boolean): Arrangement {
    const { levels, strengths, listener, tokens, stillFrom, toldSizes } = this.#request;
    const regions = this.masks.map((mask): Region => ({ prompt: '', shape: { kind: 'mask', mask } }));
    const { layout, feeds, weights } = isolated
      ? sharePicture(regions, this.#tokens, levels, true)
      : shareAnyPicture(regions, this.#tokens, levels);
    const placed = this.#placement.placed.map((concept) => strengths[concept]!);
    const sizes = regions.flatMap(({ shape }, i) => {
      const told = isolated ? toldSizes(shape) : undefined;
      return told === undefined ? [] : [[timeIdsInput(i + 1, true), told] as const];
    });
    const own = { ...feeds, ...conceptMasks(weights, placed), ...Object.fromEntries(sizes) };
    // Places that move are told in all calls, whether that is heard or not.
    const listens = stillFrom > 0;
    return {
      layout,
      placement: this.#placement,
      listening: listens ? listener.setup : null,
      feeds: (_, texts) => (listens ? { ...own, ...listener.feeds(texts, tokens.length - 1) } : own),
    };
  }
}

/** The whole prompt everywhere, by what acts everywhere. */
function lookingAlone({ levels, tokens, strengths, listener, attentions }: FoundRequest): Arrangement {
  const whole = tokens.length - 1;
  const names = sourceInputs(attentions, whole);
  const layout = plainLayout(
    tokens[whole]!,
    levels.map(({ height, width }) => height * width),
  );
  return {
    layout,
    placement: { everywhere: strengths.map((own) => own[whole]!), placed: [] },
    listening: listener.setup,
    feeds: (_, texts) => {
      const first = sourceInputs(attentions, 0).flatMap((name, i) => {
        const own = texts[names[i]!];
        return own === undefined ? [] : [[name, own] as const];
      });
      return { ...Object.fromEntries(first), ...listener.feeds(texts, whole) };
    },
  };
}
