/** Listening to words of a prompt while a UNet draws: which of its cross-attentions tell, and what they are fed with for it. */

import type { UnetConfig } from '../models/unet/config.ts';
import { keyInput } from '../models/unet/region-attention.ts';
import { type AttentionPlace, attentionPlaces } from '../models/unet/structure.ts';
import {
  heardKeyInput,
  heardWordsInput,
  type Listening,
  queriesOutput,
  sharesOutput,
} from '../models/unet/word-shares.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import type { GuidedRows } from './guided-rows.ts';

type Feeds = Readonly<Record<string, Tensor>>;

/** What one cross-attention tells of n pictures. */
export interface HeardLayer {
  readonly place: AttentionPlace;
  /** [n, N, W] */
  readonly shares: Float32Array;
  /** [n, N, C] */
  readonly queries: Float32Array;
}

export class WordListener {
  readonly #places: readonly AttentionPlace[];
  readonly #positions: readonly (readonly (readonly number[])[])[];
  readonly #rows: GuidedRows;
  readonly setup: Listening;
  /** Of the keys that were asked for last. */
  #fed: { readonly keys: Tensor; readonly feeds: Feeds } | null = null;

  /**
   * @param levels    which of the UNet's levels tell
   * @param positions of the words, [word][layer][position]
   * @param tokens    text positions T of the prompt
   */
  constructor(
    config: UnetConfig,
    levels: readonly number[],
    positions: readonly (readonly (readonly number[])[])[],
    tokens: number,
    rows: GuidedRows,
  ) {
    this.#places = attentionPlaces(config).filter(({ level }) => levels.includes(level));
    this.#positions = positions;
    this.#rows = rows;
    this.setup = {
      layers: new Set(this.#places.map(nameOf)),
      words: positions.length,
      tokens,
      rows: [rows.count - rows.pictures, rows.count],
    };
  }

  /** @param keys of all sources, as `UnetDenoiser.keysValues` gives them; @param source the prompt's */
  feeds(keys: Feeds, source: number): Feeds {
    const { words, tokens } = this.setup;
    const first = keys[keyInput(nameOf(this.#places[0]!), source)]!;
    if (this.#fed?.keys === first) return this.#fed.feeds;
    const feeds: Record<string, Tensor> = {};
    for (const place of this.#places) {
      const name = nameOf(place);
      feeds[heardKeyInput(name)] = this.#rows.positive(keys[keyInput(name, source)]!);
      const columns = float32([tokens, words]);
      this.#positions.forEach((layers, word) => {
        for (const t of layers[place.index]!) columns.data[t * words + word] = 1;
      });
      feeds[heardWordsInput(name)] = columns;
    }
    this.#fed = { keys: first, feeds };
    return feeds;
  }

  /** @param outputs of a run of the UNet that was loaded with this `setup` */
  heard(outputs: Feeds): HeardLayer[] {
    return this.#places.map((place) => ({
      place,
      shares: outputs[sharesOutput(nameOf(place))]!.data as Float32Array,
      queries: outputs[queriesOutput(nameOf(place))]!.data as Float32Array,
    }));
  }
}

const nameOf = ({ path }: AttentionPlace): string => `${path}.attn2`;
