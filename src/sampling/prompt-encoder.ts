/** Prompts to text features per cross-attention layer: concept words bound, weights applied, long prompts in chunks. */
import type { BoundVocabulary } from '../concepts/prompt.ts';
import type { Checkpoint } from '../models/checkpoint.ts';
import { encodeText } from '../models/clip/encode-text.ts';
import { TokenEmbeddings } from '../models/clip/text-encoder.ts';
import type { LayerDeltas } from '../models/lora.ts';
import { float32, type Tensor } from '../tensor/tensor.ts';
import { parsePromptWeights } from './prompt-weights.ts';

/** One text per cross-attention layer (L of them), before concept words are bound. */
export type LayerTexts = readonly string[];

/** Tokens between begin and end, with their weights. */
interface Chunk {
  /** As the encoder takes them: begin, up to 75 tokens, end, padding. */
  readonly ids: readonly number[];
  /** One per id; `null` if all are 1. */
  readonly weights: readonly number[] | null;
}

const CACHE_ENTRIES = 512;
/** Windows of one run of the encoder: long texts in every layer and region would need gigabytes at once. */
const MAX_BATCH = 64;

/** The text half of a model, kept for several pictures. */
export class PromptEncoder {
  readonly #base: Checkpoint;
  readonly #vocabulary: BoundVocabulary;
  readonly #deltas: LayerDeltas;
  readonly #embeddings: TokenEmbeddings;
  readonly #clipSkip: number;
  /** Hidden states [T, D] by ids. */
  readonly #cache = new Map<string, Float32Array>();

  constructor(base: Checkpoint, vocabulary: BoundVocabulary, deltas: LayerDeltas, clipSkip: number) {
    this.#base = base;
    this.#vocabulary = vocabulary;
    this.#deltas = deltas;
    this.#clipSkip = clipSkip;
    const { weights, config } = base.textEncoder;
    this.#embeddings = new TokenEmbeddings(weights, config, vocabulary.embeddingRows());
  }

  /**
   * Features [L, T, D] of every prompt. Prompts of one group get the same T, a multiple of 77: the shorter ones are
   * filled up with empty chunks.
   */
  async encode(groups: readonly (readonly LayerTexts[])[]): Promise<Tensor<Float32Array>[][]> {
    const chunked = groups.map((group) => this.#sameLength(group.map((texts) => this.#chunks(texts))));
    const chunks = chunked.flat(3);
    const weighted = chunks.some(({ weights }) => weights !== null);
    const states = await this.#states([
      ...chunks.map(({ ids }) => ids),
      ...(weighted ? [this.#emptyChunk().ids] : []),
    ]);
    return chunked.map((group) => group.map((layers) => this.#assemble(layers, states)));
  }

  /** Chunks per layer. */
  #chunks(texts: LayerTexts): Chunk[][] {
    const { tokenizer, layerPrompts } = this.#vocabulary;
    const room = this.#base.textEncoder.config.maxPositions - 2;
    const boundPrompts = new Map<string, string[]>();
    const bound = (text: string, layer: number): string => {
      const prompts = boundPrompts.get(text) ?? layerPrompts(text);
      boundPrompts.set(text, prompts);
      return prompts[layer]!;
    };
    return texts.map((text, layer) => {
      const ids: number[] = [];
      const weights: number[] = [];
      for (const piece of parsePromptWeights(text)) {
        for (const id of tokenizer.encode(bound(piece.text, layer)).slice(1, -1)) {
          ids.push(id);
          weights.push(piece.weight);
        }
      }
      const chunks: Chunk[] = [];
      for (let start = 0; start === 0 || start < ids.length; start += room) {
        chunks.push(this.#chunk(ids.slice(start, start + room), weights.slice(start, start + room)));
      }
      return chunks;
    });
  }

  #chunk(content: readonly number[], weights: readonly number[]): Chunk {
    const { bosId, eosId, padId } = this.#vocabulary.tokenizer;
    const ids = [bosId, ...content, eosId];
    const all = [1, ...weights];
    while (ids.length < this.#base.textEncoder.config.maxPositions) ids.push(padId);
    while (all.length < ids.length) all.push(1);
    return { ids, weights: all.every((weight) => weight === 1) ? null : all };
  }

  #emptyChunk(): Chunk {
    return this.#chunk([], []);
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
  async #states(lists: readonly (readonly number[])[]): Promise<Map<string, Float32Array>> {
    const wanted = new Map(lists.map((ids) => [ids.join(), ids]));
    const states = new Map<string, Float32Array>();
    for (const key of wanted.keys()) {
      const known = this.#cache.get(key);
      if (known !== undefined) states.set(key, known);
    }
    const missing = [...wanted].filter(([key]) => !states.has(key));
    if (missing.length === 0) return states;
    if (this.#cache.size + missing.length > CACHE_ENTRIES) this.#cache.clear();
    for (let first = 0; first < missing.length; first += MAX_BATCH) {
      const batch = missing.slice(first, first + MAX_BATCH);
      const { hiddenStates } = await encodeText(
        this.#base.textEncoder,
        this.#embeddings,
        batch.map(([, ids]) => ids),
        { deltas: this.#deltas, clipSkip: this.#clipSkip },
      );
      const size = hiddenStates.shape[1]! * hiddenStates.shape[2]!;
      batch.forEach(([key], i) => {
        const own = hiddenStates.data.slice(i * size, (i + 1) * size);
        states.set(key, own);
        this.#cache.set(key, own);
      });
    }
    return states;
  }

  /**
   * z' = z_empty + w · (z − z_empty) per token: weight 1 changes nothing, 0 leaves what an empty prompt has there.
   * Source: ComfyUI's encode_token_weights (comfy/sd1_clip.py).
   */
  #assemble(layers: readonly Chunk[][], encoded: ReadonlyMap<string, Float32Array>): Tensor<Float32Array> {
    const { maxPositions, hiddenSize } = this.#base.textEncoder.config;
    const perLayer = layers[0]!.length * maxPositions;
    const result = float32([layers.length, perLayer, hiddenSize]);
    const emptyIds = this.#emptyChunk().ids.join();
    layers.flat().forEach(({ ids, weights }, i) => {
      const states = encoded.get(ids.join())!;
      const at = i * maxPositions * hiddenSize;
      result.data.set(states, at);
      if (weights === null) return;
      const empty = encoded.get(emptyIds)!;
      for (let j = 0; j < states.length; j++) {
        const weight = weights[Math.floor(j / hiddenSize)]!;
        if (weight !== 1) result.data[at + j] = empty[j]! + weight * (states[j]! - empty[j]!);
      }
    });
    return result;
  }
}
