/** Prompts to hidden states: one run of the text encoder on a batch of token ids. */
import { type ExecutionContext, executionContext } from '../../runtime/execution-context.ts';
import type { Tensor } from '../../tensor/tensor.ts';
import type { ModelPart } from '../families/model-part.ts';
import { deltaFeeds, deltaRanks, type LayerDeltas } from '../lora.ts';
import type { NetworkOptions, Probes } from '../network.ts';
import { textLayers } from './changeable-layers.ts';
import type { ClipTextConfig } from './config.ts';
import { buildTextEncoder, type TokenEmbeddings } from './text-encoder.ts';

export interface EncodeTextOptions {
  /** Deltas on the encoder's layers; default none. */
  readonly deltas?: LayerDeltas;
  /** Layers to leave out at the end; default 0. */
  readonly clipSkip?: number;
  readonly probes?: NetworkOptions['probes'];
  /** Feeds of inputs that the probes made, e.g. row weights. */
  readonly feeds?: Readonly<Record<string, Tensor>>;
}

export interface EncodedText {
  /** After the final norm, [B, T, D]. */
  readonly hiddenStates: Tensor<Float32Array>;
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
  { deltas = new Map(), clipSkip = 0, probes = {}, feeds = {} }: EncodeTextOptions = {},
  context: ExecutionContext = executionContext(),
): Promise<EncodedText> {
  const tokenEmbeddings = embeddings.lookUp(batch);
  const own = withoutSkipped(deltas, config, clipSkip);
  const loraRanks = deltaRanks(own);
  const size = { batch: batch.length, tokens: tokenEmbeddings.shape[1]! };
  const network = buildTextEncoder(weights, config, size, { loraRanks, probes, clipSkip });
  // Used once: reordering the weights would cost more than it saves.
  const session = await context.runtime.load(network.graph, 'once', context);
  try {
    const outputs = await session.run({
      token_embeddings: tokenEmbeddings,
      ...deltaFeeds(own, loraRanks, layers),
      ...feeds,
    });
    const hiddenStates = outputs.last_hidden_state as Tensor<Float32Array>;
    return { hiddenStates, probes: network.probes, outputs };
  } finally {
    await session.dispose();
  }
}

/** Layers that are left out at the end have no place for their deltas. */
function withoutSkipped(deltas: LayerDeltas, config: ClipTextConfig, clipSkip: number): LayerDeltas {
  if (clipSkip === 0) return deltas;
  const skipped = new Set(
    textLayers(config)
      .slice(textLayers({ ...config, numLayers: config.numLayers - clipSkip }).length)
      .map(({ layerName }) => layerName),
  );
  return new Map([...deltas].filter(([layerName]) => !skipped.has(layerName)));
}
