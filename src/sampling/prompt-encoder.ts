/** Prompts to text features per cross-attention layer: concept words bound, weights applied, long prompts in chunks. */

import type { BoundVocabulary } from '../concepts/prompt.ts';
import { ShapeError } from '../errors.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import type { ClipTokenizer } from '../models/clip/tokenizer.ts';
import { type Conditioning, type TokenEncoder, zerosLike } from '../models/families/conditioning.ts';
import type { PromptIds, TokenIds } from '../models/families/prompt-ids.ts';
import type { ModelDeltas } from '../models/lora.ts';
import type { ExecutionContext } from '../runtime/execution-context.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { parsePromptWeights, type WeightedText } from './prompt-weights.ts';

/** A text for all text encoders, or one for each. */
export type EncoderTexts = string | readonly string[];

/** One text per cross-attention layer (L of them), before concept words are bound. */
export type LayerTexts = readonly EncoderTexts[];

/** Tokens between begin and end, with their weights. */
interface Chunk {
  /** As each text encoder takes them: begin, up to 75 tokens, end, padding. */
  readonly ids: PromptIds;
  /** One per id of each text encoder; `null` if all are 1. */
  readonly weights: readonly (readonly number[])[] | null;
}

/** The part of a chunk that one text encoder reads. */
interface Window {
  readonly ids: TokenIds;
  readonly weights: readonly number[] | null;
}

/** Of one chunk: features [T, D], and the vector where there is one. */
interface EncodedWindow {
  readonly states: Float32Array;
  readonly pooled: Float32Array | undefined;
}

const CACHE_ENTRIES = 512;
/** Windows of one run of the encoder: long texts in every layer and region would need gigabytes at once. */
const MAX_BATCH = 64;

/** The text half of a model, kept for several pictures. */
export class PromptEncoder {
  readonly #base: Checkpoint;
  readonly #vocabulary: BoundVocabulary;
  readonly #encoder: TokenEncoder;
  /** By ids. */
  readonly #cache = new Map<string, EncodedWindow>();

  /** @param deltas changes of the base; those of the text encoders count */
  constructor(
    base: Checkpoint,
    vocabulary: BoundVocabulary,
    deltas: ModelDeltas,
    clipSkip: number,
    execution?: ExecutionContext,
  ) {
    const [wanted, got] = [base.parts.tokenizers, vocabulary.tokenizers].map((own) =>
      [...own.keys()].join(', '),
    );
    if (wanted !== got) {
      throw new ShapeError(
        `vocabulary: expected one bound to the tokenizers of ${wanted} as the base has them, got ${got}`,
      );
    }
    this.#base = base;
    this.#vocabulary = vocabulary;
    const added = vocabulary.embeddingRows;
    this.#encoder = base.family.base.tokenEncoder(base.parts, { added, deltas, clipSkip, execution });
  }

  /**
   * Every prompt as the UNet is conditioned on it, one row each. Prompts of one group get the same T, a multiple of 77:
   * the shorter ones are filled up with empty chunks. Where the UNet reads a vector per prompt, it is the first chunk's.
   * `null` is no prompt at all: zeros where the model says so, elsewhere the empty text.
   */
  async encode(groups: readonly (readonly (LayerTexts | null)[])[]): Promise<Conditioning[][]> {
    const empty = Array<string>(this.#vocabulary.layerCount).fill('');
    const chunked = groups.map((group) =>
      this.#sameLength(group.map((texts) => this.#chunks(texts ?? empty))),
    );
    const chunks = chunked.flat(3);
    const weighted = chunks.some(({ weights }) => weights !== null);
    const states = await this.#states([
      ...chunks.map(({ ids }) => ids),
      ...(weighted ? [this.#emptyChunk().ids] : []),
    ]);
    const { zerosForNoPrompt } = this.#base;
    return chunked.map((group, i) =>
      group.map((layers, j) => {
        const own = this.#assemble(layers, states);
        return zerosForNoPrompt && groups[i]![j] === null ? zerosLike(own) : own;
      }),
    );
  }

  /**
   * Token positions of words in a prompt as it is encoded, per cross-attention layer: [word][layer][position]; all of its tokens,
   * wherever it stands. Words that are not there have none.
   */
  wordPositions(prompt: string, words: readonly string[]): number[][][] {
    const { layerCount, tokenizer, layerPrompts } = this.#vocabulary;
    const chunks = this.#chunks(Array<string>(layerCount).fill(prompt));
    const ids = chunks.map((own) => own.flatMap((chunk) => [...chunk.ids[0]!]));
    return words.map((word) =>
      layerPrompts(word).map((text, layer) => occurrences(ids[layer]!, tokenizer.encode(text).slice(1, -1))),
    );
  }

  /** Chunks per layer. */
  #chunks(texts: LayerTexts): Chunk[][] {
    const { tokenizers, layerPrompts } = this.#vocabulary;
    const boundPrompts = new Map<string, string[]>();
    const bound = (text: string, layer: number): string => {
      const prompts = boundPrompts.get(text) ?? layerPrompts(text);
      boundPrompts.set(text, prompts);
      return prompts[layer]!;
    };
    const piecesOf = (text: string, layer: number): WeightedText[] =>
      parsePromptWeights(text).map(({ text, weight }) => ({ text: bound(text, layer), weight }));
    return texts.map((text, layer) => {
      const windows = [...tokenizers.values()].map((tokenizer, encoder) =>
        this.#windows(tokenizer, piecesOf(typeof text === 'string' ? text : text[encoder]!, layer)),
      );
      const count = Math.max(...windows.map(({ length }) => length));
      const empty = this.#emptyChunk();
      return Array.from({ length: count }, (_, i): Chunk => {
        const own = windows.map((ofEncoder) => ofEncoder[i]);
        const ids = own.map((window, encoder) => window?.ids ?? empty.ids[encoder]!);
        const plain = own.every((window) => window === undefined || window.weights === null);
        const weights = own.map((window, encoder) => window?.weights ?? ids[encoder]!.map(() => 1));
        return { ids, weights: plain ? null : weights };
      });
    });
  }

  /** A text as one text encoder takes it, window after window. */
  #windows(tokenizer: ClipTokenizer, pieces: readonly WeightedText[]): Window[] {
    const ids: number[] = [];
    const weights: number[] = [];
    for (const { text, weight } of pieces) {
      for (const id of tokenizer.encode(text).slice(1, -1)) {
        ids.push(id);
        weights.push(weight);
      }
    }
    const room = this.#base.parts.maxPositions - 2;
    const windows: Window[] = [];
    for (let start = 0; start === 0 || start < ids.length; start += room) {
      const end = start + room;
      windows.push(this.#window(tokenizer, ids.slice(start, end), weights.slice(start, end)));
    }
    return windows;
  }

  #window(
    { bosId, eosId, padId }: ClipTokenizer,
    content: readonly number[],
    weights: readonly number[],
  ): Window {
    const ids = [bosId, ...content, eosId];
    const all = [1, ...weights];
    while (ids.length < this.#base.parts.maxPositions) ids.push(padId);
    while (all.length < ids.length) all.push(1);
    return { ids, weights: all.every((weight) => weight === 1) ? null : all };
  }

  #emptyChunk(): Chunk {
    const tokenizers = [...this.#vocabulary.tokenizers.values()];
    return { ids: tokenizers.map((tokenizer) => this.#window(tokenizer, [], []).ids), weights: null };
  }

  #sameLength(group: readonly Chunk[][][]): Chunk[][][] {
    const count = Math.max(...group.flat().map((chunks) => chunks.length));
    return group.map((layers) =>
      layers.map((chunks) => [
        ...chunks,
        ...Array.from({ length: count - chunks.length }, () => this.#emptyChunk()),
      ]),
    );
  }

  /** Hidden states by ids; what is not in the cache is encoded in one batch. */
  async #states(lists: readonly PromptIds[]): Promise<Map<string, EncodedWindow>> {
    const wanted = new Map(lists.map((ids) => [ids.join(';'), ids]));
    const states = new Map<string, EncodedWindow>();
    for (const key of wanted.keys()) {
      const known = this.#cache.get(key);
      if (known !== undefined) states.set(key, known);
    }
    const missing = [...wanted].filter(([key]) => !states.has(key));
    if (missing.length === 0) return states;
    if (this.#cache.size + missing.length > CACHE_ENTRIES) this.#cache.clear();
    for (let first = 0; first < missing.length; first += MAX_BATCH) {
      const batch = missing.slice(first, first + MAX_BATCH);
      const encoded = await this.#encoder.encode(batch.map(([, ids]) => ids));
      batch.forEach(([key], i) => {
        const pooled = encoded.pooled === undefined ? undefined : rowOf(encoded.pooled, i);
        const own = { states: rowOf(encoded.states, i), pooled };
        states.set(key, own);
        this.#cache.set(key, own);
      });
    }
    return states;
  }

  /** Which text encoder gives each column of the features. */
  #encoderOfColumn(): number[] {
    return [...this.#base.parts.textEncoders.values()].flatMap(({ config }, encoder) =>
      Array<number>(config.hiddenSize).fill(encoder),
    );
  }

  /**
   * z' = z_empty + w · (z − z_empty) per token: weight 1 changes nothing, 0 leaves what an empty prompt has there.
   * Source: ComfyUI's encode_token_weights (comfy/sd1_clip.py).
   */
  #assemble(layers: readonly Chunk[][], encoded: ReadonlyMap<string, EncodedWindow>): Conditioning {
    const { maxPositions } = this.#base.parts;
    const first = encoded.get(layers[0]![0]!.ids.join(';'))!;
    const width = first.states.length / maxPositions;
    const result = float32([1, layers.length, layers[0]!.length * maxPositions, width]);
    const emptyIds = this.#emptyChunk().ids.join(';');
    const encoderOf = this.#encoderOfColumn();
    layers.flat().forEach(({ ids, weights }, i) => {
      const { states } = encoded.get(ids.join(';'))!;
      const at = i * states.length;
      result.data.set(states, at);
      if (weights === null) return;
      const { states: empty } = encoded.get(emptyIds)!;
      for (let j = 0; j < states.length; j++) {
        const weight = weights[encoderOf[j % width]!]![Math.floor(j / width)]!;
        if (weight !== 1) result.data[at + j] = empty[j]! + weight * (states[j]! - empty[j]!);
      }
    });
    const { pooled } = first;
    return {
      context: result,
      pooled: pooled === undefined ? undefined : float32([1, pooled.length], pooled),
    };
  }
}

/** Positions of every occurrence of `part` in `ids`, all of its tokens. */
function occurrences(ids: readonly number[], part: readonly number[]): number[] {
  const found: number[] = [];
  for (let start = 0; part.length > 0 && start + part.length <= ids.length; start++) {
    if (part.every((id, i) => ids[start + i] === id)) found.push(...part.map((_, i) => start + i));
  }
  return found;
}

/** A copy of one entry along the first axis. */
function rowOf({ shape, data }: Tensor<Float32Array>, index: number): Float32Array {
  const size = data.length / shape[0]!;
  return data.slice(index * size, (index + 1) * size);
}
