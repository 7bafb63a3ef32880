/**
 * Who rules where, and which concepts act there, call by call of the UNet: drawn regions say it before the first call
 * (drawn-places.ts), found ones while a picture is drawn (auto-regions/found-places.ts).
 */
import type { SourceLayout } from '../models/unet/region-attention.ts';
import type { Listening } from '../models/unet/word-shares.ts';
import type { Tensor } from '../tensor/tensor.ts';
import type { ConceptPlacement } from './concept-places.ts';

type Feeds = Readonly<Record<string, Tensor>>;

/** How a call of the UNet is arranged. */
export interface Arrangement {
  readonly layout: SourceLayout;
  readonly placement: ConceptPlacement;
  /** What is told of words in it; null: nothing. */
  readonly listening: Listening | null;
  /**
   * Indices and weights of the sources' rows, and the masks of the concepts, of one of the combined models.
   * @param texts keys and values of its sources
   */
  readonly feeds: (model: number, texts: Feeds) => Feeds;
}

export interface PicturePlaces {
  /** @param call from 0, the first that is made */
  at(call: number): Arrangement;
  /** What the UNet gave in a call, prediction and all. */
  heard(call: number, outputs: Feeds): void;
}
