/** Prompts to hidden states: one run of the text encoder on a batch of token ids. */
import { type ExecutionContext, executionContext } from '../../runtime/execution-context.ts';
import { float32, type Tensor } from '../../tensor/tensor.ts';
import type { ModelPart } from '../families/model-part.ts';
import { deltaFeeds, deltaRanks, type LayerDeltas } from '../lora.ts';
import type { NetworkOptions, Probes } from '../network.ts';
import { textLayers } from './changeable-layers.ts';
import type { ClipTextConfig } from './config.ts';
import { buildTextEncoder, type TextEncoderOptions, type TokenEmbeddings } from './text-encoder.ts';

export interface EncodeTextOptions {
  /** Deltas on the encoder's layers; default none. */
  readonly deltas?: LayerDeltas;
  /** As of `buildTextEncoder`: which state is returned. Default: the last one, behind the final norm. */
  readonly clipSkip?: number;
  readonly finalNorm?: boolean;
  /** Position of each prompt's pooled row, B numbers; `pooled` is then returned. Default: none is. */
  readonly pooledAt?: readonly number[];
  readonly probes?: NetworkOptions['probes'];
  /** Feeds of inputs that the probes made, e.g. row weights. */
  readonly feeds?: Readonly<Record<string, Tensor>>;
}

export interface EncodedText {
  /** [B, T, D] */
  readonly hiddenStates: Tensor<Float32Array>;
  /** The pooled rows, projected where there is a projection, [B, P]; undefined where none was asked for. */
  readonly pooled?: Tensor<Float32Array>;
  readonly probes: Probes;
  /** Everything the run returned, probes included. */
  readonly outputs: Readonly<Record<string, Tensor>>;
}

/**
 * Encode a batch of equally long id lists.
 * @throws {ShapeError} if the lists differ in length or exceed the model's positions
 */
export async function encodeText(
  { config, weights, layers }: ModelPart<ClipTextConfig>,
  embeddings: TokenEmbeddings,
  batch: readonly (readonly number[])[],
  {
    deltas = new Map(),
    clipSkip = 0,
    finalNorm = true,
    pooledAt,
    probes = {},
    feeds = {},
  }: EncodeTextOptions = {},
  context: ExecutionContext = executionContext(),
): Promise<EncodedText> {
  const tokenEmbeddings = embeddings.lookUp(batch);
  const pooled = pooledAt !== undefined;
  const own = withPlace(deltas, config, { clipSkip, pooled });
  const loraRanks = deltaRanks(own);
  const size = { batch: batch.length, tokens: tokenEmbeddings.shape[1]! };
  const network = buildTextEncoder(weights, config, size, { loraRanks, probes, clipSkip, finalNorm, pooled });
  // Used once: reordering the weights would cost more than it saves.
  const session = await context.runtime.load(network.graph, 'once', context);
  try {
    const outputs = await session.run({
      token_embeddings: tokenEmbeddings,
      ...(pooledAt === undefined ? {} : { pooled_rows: pooledRows(pooledAt, size.tokens) }),
      ...deltaFeeds(own, loraRanks, layers),
      ...feeds,
    });
    const hiddenStates = outputs.last_hidden_state as Tensor<Float32Array>;
    return {
      hiddenStates,
      pooled: outputs.text_embeds as Tensor<Float32Array> | undefined,
      probes: network.probes,
      outputs,
    };
  } finally {
    await session.dispose();
  }
}

/** The input `pooled_rows` of `buildTextEncoder`, [B, 1, T]. */
export function pooledRows(positions: readonly number[], tokens: number): Tensor<Float32Array> {
  const rows = float32([positions.length, 1, tokens]);
  positions.forEach((position, i) => {
    rows.data[i * tokens + position] = 1;
  });
  return rows;
}

/** Deltas of layers that run; those of the others have no place. */
function withPlace(deltas: LayerDeltas, config: ClipTextConfig, reading: LayersRun): LayerDeltas {
  const present = layersRun(config, reading);
  const known = new Set(textLayers(config).map(({ layerName }) => layerName));
  return new Map([...deltas].filter(([layerName]) => present.has(layerName) || !known.has(layerName)));
}

type LayersRun = Pick<TextEncoderOptions, 'clipSkip' | 'pooled'>;

/** Names of the layers that run: those left out at the end do not, nor does the projection where nothing is pooled. */
export function layersRun(
  { projectionDim, ...plain }: ClipTextConfig,
  { clipSkip = 0, pooled = false }: LayersRun,
): ReadonlySet<string> {
  const run = pooled
    ? textLayers({ ...plain, projectionDim })
    : textLayers({ ...plain, numLayers: plain.numLayers - clipSkip });
  return new Set(run.map(({ layerName }) => layerName));
}
