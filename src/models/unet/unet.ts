/**
 * The UNet as a graph: noisy latents, timestep and text features to a prediction.
 * Source: diffusers, models/unets/unet_2d_condition.py; per-layer context as in Mix-of-Show's EDLoRA attention.
 */
import { ShapeError } from '../../errors.ts';
import type { GraphBuilder } from '../../graph/builder.ts';
import { add } from '../../graph/ops/elementwise.ts';
import { concat, reshape, split } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { conv2d, normConv } from '../layers.ts';
import { type Network, NetworkBuilder, type NetworkOptions, type WeightSource } from '../network.ts';
import { featureShapes } from './adapter-features.ts';
import { type Attentions, contextAttentions } from './attention.ts';
import { upsample } from './blocks.ts';
import type { UnetConfig } from './config.ts';
import { blockWriter, downAndMiddle } from './down-path.ts';
import { type FactorPlaces, placedFactors } from './factor-places.ts';
import {
  keptApart,
  type SourceLayout,
  sharedAttentions,
  sharedConv,
  sharedGroupNorm,
} from './region-attention.ts';
import { sharedTime } from './region-time.ts';
import { attentionPlaces, levelSizes } from './structure.ts';
import { timeEmbedding, wholeTime } from './time-embedding.ts';
import type { Listening } from './word-shares.ts';

export interface UnetSize {
  readonly batch: number;
  /** In latent cells: an eighth of the picture for SD 1.x. Odd sizes are fine. */
  readonly latentHeight: number;
  readonly latentWidth: number;
  /** Text positions T; not looked at where `sources` says it. */
  readonly tokens: number;
}

export interface UnetOptions extends NetworkOptions {
  /**
   * Text features per cross-attention layer, [B, L, T, D] (true), or one for all, [B, T, D] (false).
   * Default true.
   */
  readonly layerwiseContext?: boolean;
  /**
   * Take K and V of the cross-attentions as inputs instead of the text features (layers `….attn2.to_k` and
   * `to_v` are then not part of this graph), for one text or for several that share the picture. Default `null`.
   */
  readonly sources?: SourceLayout | null;
  /** What the network tells of words where `sources` is not null, see word-shares.ts. Default nothing. */
  readonly listening?: Listening | null;
  /**
   * How attention is written where `sources` is null, given the text features [B, T, D] of the index-th cross-attention.
   * Default `contextAttentions`.
   */
  readonly attentions?: (contextOf: (index: number) => Value) => Attentions;
  /** Factors that count in parts of the picture alone. Default: all count everywhere. */
  readonly places?: FactorPlaces | null;
  /** Take the features of a T2I-Adapter, as adapter-features.ts says. Default false. */
  readonly adapterFeatures?: boolean;
  /** Take one residual per skip connection and one for the middle (ControlNet). Default false. */
  readonly controlResiduals?: boolean;
}

/** Input [1, C_i, h_i, w_i]: the i-th feature of a T2I-Adapter. */
export const adapterInput = (feature: number): string => `adapter.${feature}`;
/** Input [B, …]: the residual added to skip connection i. */
export const controlDownInput = (skip: number): string => `control.down.${skip}`;
/** Input [B, …]: the residual added to the middle's output. */
export const CONTROL_MIDDLE_INPUT = 'control.mid';

/**
 * Write the UNet.
 *
 * Inputs: `sample` [B, C, h, w]; `timestep` [B] (fractions allowed), `text_embeds` and `time_ids` beside it as
 * time-embedding.ts says; `encoder_hidden_states` [B, L, T, D] or
 * [B, T, D], layers in the order of `attentionPlaces`, or else the inputs of region-attention.ts; features and
 * residuals, and the factors asked for.
 * Output: `noise_pred` [B, C, h, w].
 * @throws {MissingWeightError | ShapeError} when the weights do not fit the config
 */
export function buildUnet(
  weights: WeightSource,
  config: UnetConfig,
  size: UnetSize,
  {
    layerwiseContext = true,
    sources = null,
    listening = null,
    attentions: attentionsOver = contextAttentions,
    places = null,
    adapterFeatures = false,
    controlResiduals = false,
    ...options
  }: UnetOptions = {},
): Network {
  const { batch, latentHeight, latentWidth } = size;
  const levels = levelSizes(config, latentHeight, latentWidth);
  const net = new NetworkBuilder(weights, {
    ...(sources === null
      ? {}
      : { groupNorm: sharedGroupNorm(sources, levels), conv: sharedConv(sources, levels) }),
    ...(places === null ? {} : { factorWeights: placedFactors(places, levels) }),
    ...options,
  });
  const { g } = net;
  const { blocks } = config;
  const sample = g.input('sample', 'float32', [batch, config.inChannels, latentHeight, latentWidth]);
  const texts = config.addedInputs === undefined ? 1 : (sources?.tokens.length ?? 1);
  const embedded = timeEmbedding(net, config, batch, texts, sources !== null && keptApart(sources));
  const time = texts === 1 ? wholeTime(embedded) : sharedTime(embedded, levels);
  const attentions =
    sources === null
      ? attentionsOver(contextInput(g, config, size, layerwiseContext))
      : sharedAttentions(sources, listening);
  const write = blockWriter(net, config, time, attentions);
  const features = adapterFeatures
    ? featureShapes(config, latentHeight, latentWidth).map(({ channels, height, width }, i) =>
        g.input(adapterInput(i), 'float32', [1, channels, height, width]),
      )
    : [];

  const first = conv2d(net, sample, 'conv_in', { out: blocks[0]!.channels });
  let { hidden, skips } = downAndMiddle(net, config, write, first, features);
  if (controlResiduals) {
    skips = skips.map((skip, i) => add(g, skip, g.input(controlDownInput(i), 'float32', skip.shape)));
    hidden = add(g, hidden, g.input(CONTROL_MIDDLE_INPUT, 'float32', hidden.shape));
  }
  blocks.toReversed().forEach(({ channels, crossAttention }, i) => {
    net.within(`up_blocks.${i}`, () => {
      for (let j = 0; j <= config.layersPerBlock; j++) {
        const skip = skips.pop();
        if (skip === undefined) throw new ShapeError('internal: UNet has more up than down layers');
        hidden = write.resnet(concat(g, [hidden, skip], 1), `resnets.${j}`, channels);
        if (crossAttention) hidden = write.transformer(hidden, `attentions.${j}`);
      }
      if (i === blocks.length - 1) return;
      const [, , height, skipWidth] = skips.at(-1)!.shape as [number, number, number, number];
      hidden = upsample(net, hidden, height, skipWidth);
    });
  });
  hidden = normConv(
    net,
    hidden,
    { norm: 'conv_norm_out', conv: 'conv_out' },
    {
      out: config.outChannels,
      groups: config.normGroups,
      epsilon: config.normEpsilon,
    },
  );
  g.output('noise_pred', hidden);
  return net.finish();
}

/** The input `encoder_hidden_states`, and the features of the index-th cross-attention. */
export function contextInput(
  g: GraphBuilder,
  config: UnetConfig,
  { batch, tokens }: { readonly batch: number; readonly tokens: number },
  layerwise: boolean,
): (index: number) => Value {
  const width = config.crossAttentionDim;
  const layers = attentionPlaces(config).length;
  const shape = layerwise ? [batch, layers, tokens, width] : [batch, tokens, width];
  const context = g.input('encoder_hidden_states', 'float32', shape);
  if (!layerwise) return () => context;
  const contexts = split(g, context, Array(layers).fill(1), 1).map((layer) =>
    reshape(g, layer, [batch, tokens, width]),
  );
  return (index) => contexts[index]!;
}
