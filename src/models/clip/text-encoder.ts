/**
 * CLIP's text encoder: token embeddings to hidden states. The graph begins at the embeddings; rows of the table
 * are looked up outside it, so that concept tokens need no enlarged table and the table is never loaded whole.
 * Source: Hugging Face transformers, models/clip/modeling_clip.py.
 */
import { MismatchError, MissingWeightError, ShapeError } from '../../errors.ts';
import { readFloat32, sliceRows } from '../../formats/raw-tensor.ts';
import { add } from '../../graph/ops/elementwise.ts';
import { matmul } from '../../graph/ops/matmul.ts';
import { reshape } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';
import { layerNorm } from '../layers.ts';
import { type Network, NetworkBuilder, type NetworkOptions, type WeightSource } from '../network.ts';
import type { ClipTextConfig } from './config.ts';
import { projection } from './projection.ts';
import { causalMask, joinRows, sharedPrefixAttention, wholePrompts } from './shared-prefix.ts';
import { attention, clipLayer } from './transformer.ts';

export interface TextEncoderSize {
  /** Number of prompts, B. */
  readonly batch: number;
  /** Token positions T, at most the model's 77. */
  readonly tokens: number;
  /** Positions P at the beginning that all prompts share and that are computed once, below T; default 0. */
  readonly sharedPrefix?: number;
}

export interface TextEncoderOptions extends NetworkOptions {
  /** Layers to leave out at the end. Default 0. */
  readonly clipSkip?: number;
  readonly hiddenStates?: boolean;
  /** Whether `last_hidden_state` goes through the final norm. Default true; SDXL's does not. */
  readonly finalNorm?: boolean;
  /** Whether one row of every prompt is pooled: all layers, the final norm, and the projection where there is one. Default false. */
  readonly pooled?: boolean;
}

/**
 * Write the text encoder.
 *
 * Inputs: `token_embeddings` [B, T, D], and the factors asked for; with a shared prefix `prefix_embeddings` [1, P, D], and
 * `token_embeddings` [B, T − P, D] of the positions after it. Probes then see rows as shared-prefix.ts lays them out.
 * Outputs: `last_hidden_state` [B, T, D] (after the final layer norm); with `hiddenStates`, also
 * `hidden_states.k`: 0 = embeddings, k = after layer k, before the final norm; with `clipSkip` k,
 * `last_hidden_state` is the final norm of the state k layers before the last. With `pooled`, also `text_embeds` [B, P],
 * whatever is skipped; one more input, `pooled_rows` [B, 1, T], says the row of each prompt: 1 there, 0 elsewhere.
 * @throws {MissingWeightError | ShapeError} when the weights do not fit the config
 */
export function buildTextEncoder(
  weights: WeightSource,
  config: ClipTextConfig,
  { batch, tokens, sharedPrefix = 0 }: TextEncoderSize,
  options: TextEncoderOptions = {},
): Network {
  const { hiddenSize: width, numLayers, layerNormEpsilon, projectionDim } = config;
  const { finalNorm = true, pooled = false } = options;
  if (tokens > config.maxPositions) {
    throw new ShapeError(`text encoder: expected at most ${config.maxPositions} tokens, got ${tokens}`);
  }
  const net = new NetworkBuilder(weights, options);
  const { g } = net;
  const layers = numLayers - (options.clipSkip ?? 0);
  if (layers < 1) throw new ShapeError(`text encoder: clip skip ${options.clipSkip} of ${numLayers} layers`);
  if (!(sharedPrefix >= 0 && sharedPrefix < tokens)) {
    throw new ShapeError(
      `text encoder: expected a shared prefix of fewer than ${tokens} tokens, got ${sharedPrefix}`,
    );
  }
  const shared = sharedPrefix === 0 ? null : { batch, tokens, sharedPrefix };
  const prefix = shared && g.input('prefix_embeddings', 'float32', [1, sharedPrefix, width]);
  const rest = g.input('token_embeddings', 'float32', [batch, tokens - sharedPrefix, width]);
  const whole = (rows: Value): Value => (shared === null ? rows : wholePrompts(g, rows, shared));
  const last = net.within('text_model', () => {
    const placed = (embeddings: Value, first: number, end: number): Value =>
      net.within('embeddings', () =>
        add(g, embeddings, positionEmbedding(net, weights, { first, end }, config)),
      );
    let hidden = placed(rest, sharedPrefix, tokens);
    if (prefix !== null) hidden = joinRows(g, placed(prefix, 0, sharedPrefix), hidden);
    const attend =
      shared === null
        ? attention(g, config.numHeads, g.constant(causalMask(tokens)))
        : sharedPrefixAttention(g, config.numHeads, shared);
    if (options.hiddenStates) g.output('hidden_states.0', whole(hidden));
    const normal = (rows: Value): Value => layerNorm(net, rows, 'final_layer_norm', layerNormEpsilon);
    let state = hidden;
    for (let layer = 0; layer < (pooled ? numLayers : layers); layer++) {
      hidden = net.within(`encoder.layers.${layer}`, () => clipLayer(net, hidden, config, attend));
      if (options.hiddenStates) g.output(`hidden_states.${layer + 1}`, whole(hidden));
      if (layer < layers) state = hidden;
    }
    g.output('last_hidden_state', whole(finalNorm ? normal(state) : state));
    return pooled ? whole(normal(hidden)) : null;
  });
  if (last !== null) {
    const rows = g.input('pooled_rows', 'float32', [batch, 1, tokens]);
    const row = reshape(g, matmul(g, rows, last), [batch, width]);
    g.output(
      'text_embeds',
      projectionDim === undefined ? row : projection(net, row, 'text_projection', projectionDim),
    );
  }
  return net.finish();
}

function positionEmbedding(
  net: NetworkBuilder,
  weights: WeightSource,
  { first, end }: { first: number; end: number },
  { maxPositions, hiddenSize }: ClipTextConfig,
): Value {
  const name = `${net.path}.position_embedding.weight`;
  const raw = weights.get(name);
  if (raw === undefined) throw new MissingWeightError(weights.label, `no weight "${name}"`, { tensor: name });
  if (raw.shape.join() !== [maxPositions, hiddenSize].join()) {
    throw new ShapeError(
      `${weights.label}: ${name}: expected [${maxPositions}, ${hiddenSize}], got [${raw.shape.join(', ')}]`,
    );
  }
  return net.g.weight(sliceRows(raw, first, end - first), [1, end - first, hiddenSize]);
}

/** Parameter that holds the embeddings of the vocabulary, [V, D]. */
export const TOKEN_TABLE = 'text_model.embeddings.token_embedding.weight';

/** The token embedding table of a text encoder, with the rows of added tokens behind it. */
export class TokenEmbeddings {
  readonly width: number;
  readonly #weights: WeightSource;
  readonly #added: Float32Array;
  readonly #vocabSize: number;
  readonly #rows = new Map<number, Float32Array>();

  /**
   * @param added rows of the tokens after the vocabulary, [added, D]
   * @throws {MissingWeightError | MismatchError} if the table is missing or its width is not D
   */
  constructor(weights: WeightSource, config: ClipTextConfig, added: Float32Array = new Float32Array(0)) {
    this.width = config.hiddenSize;
    this.#weights = weights;
    this.#added = added;
    const { shape } = this.#table();
    if (shape[1] !== this.width) {
      throw new MismatchError(
        `${weights.label}: token embedding: expected width ${this.width}, got [${shape.join(', ')}]`,
      );
    }
    this.#vocabSize = shape[0]!;
  }

  #table() {
    const name = TOKEN_TABLE;
    const raw = this.#weights.get(name);
    if (raw === undefined)
      throw new MissingWeightError(this.#weights.label, `no weight "${name}"`, { tensor: name });
    return raw;
  }

  /** One row, [D]. @throws {ShapeError} for an id outside the table. */
  row(id: number): Float32Array {
    const extra = id - this.#vocabSize;
    if (extra >= 0) {
      if ((extra + 1) * this.width > this.#added.length) {
        throw new ShapeError(
          `token id ${id}: expected fewer than ${this.#vocabSize + this.#added.length / this.width}`,
        );
      }
      return this.#added.subarray(extra * this.width, (extra + 1) * this.width);
    }
    let row = this.#rows.get(id);
    if (row === undefined) {
      row = readFloat32(sliceRows(this.#table(), id, 1));
      this.#rows.set(id, row);
    }
    return row;
  }

  /** Rows of a batch of equally long id lists, [B, T, D]: what the graph takes as `token_embeddings`. */
  lookUp(batch: readonly (readonly number[])[]): Tensor<Float32Array> {
    const tokens = batch[0]?.length ?? 0;
    const result = float32([batch.length, tokens, this.width]);
    batch.forEach((ids, b) => {
      if (ids.length !== tokens)
        throw new ShapeError(`prompt ${b}: expected ${tokens} tokens, got ${ids.length}`);
      ids.forEach((id, t) => {
        result.data.set(this.row(id), (b * tokens + t) * this.width);
      });
    });
    return result;
  }
}

/**
 * Position whose hidden state is CLIP's pooled output. Published configs carry eos_token_id 2, which stands for "the largest
 * id": of a prompt with added words, whose ids lie behind the end's, that is the last added one's first place. Others name the
 * id. Source: modeling_clip.py.
 */
export function pooledPosition(ids: readonly number[], eosTokenId: number): number {
  return eosTokenId === 2 ? ids.indexOf(Math.max(...ids)) : Math.max(0, ids.indexOf(eosTokenId));
}
