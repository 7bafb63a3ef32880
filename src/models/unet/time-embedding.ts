/**
 * The timestep as a vector, and what some UNets add to it: the pooled text and the sizes of the picture.
 * Source: diffusers, models/embeddings.py (get_timestep_embedding, TimestepEmbedding), models/unets/unet_2d_condition.py
 * (`get_aug_embed`, text_time).
 */
import { add, cos, mul, silu, sin } from '../../graph/ops/elementwise.ts';
import { concat, reshape } from '../../graph/ops/movement.ts';
import type { Value } from '../../graph/value.ts';
import { float32 } from '../../tensor/tensor.ts';
import { linear, pictureWide } from '../layers.ts';
import type { NetworkBuilder } from '../network.ts';
import { TIME_IDS, type UnetConfig } from './config.ts';

/** What a residual block adds for the timestep, by the name of its layer: [B, out, 1, 1], or [B, out, H, W] where it differs by place. */
export type TimeWriter = (
  net: NetworkBuilder,
  name: string,
  size: { readonly out: number; readonly height: number; readonly width: number },
) => Value;

/** The same for the whole picture. @param time SiLU of the embedding, [B, 4 · C₀] */
export function wholeTime(time: Value): TimeWriter {
  return (net, name, size) => pictureWide(net, time, name, size);
}

/** Input [B, P]: the pooled text of a source. */
export const textEmbedsInput = (source: number): string =>
  source === 0 ? 'text_embeds' : `text_embeds.${source}`;
/** Input [B, 6]: the sizes that a source is told. @param apart while it keeps to itself, as a picture of its own */
export const timeIdsInput = (source: number, apart = false): string =>
  source === 0 ? 'time_ids' : `time_ids.${source}${apart ? '.apart' : ''}`;

/** numbers [N, 1] → sinusoids [N, width]: cosines first where the config flips them. */
export function sinusoids(
  net: NetworkBuilder,
  numbers: Value,
  width: number,
  { frequencyShift, flipSinToCos }: Pick<UnetConfig, 'frequencyShift' | 'flipSinToCos'>,
): Value {
  const half = width / 2;
  const frequencies = Float32Array.from({ length: half }, (_, i) =>
    Math.exp((-Math.log(10_000) * i) / (half - frequencyShift)),
  );
  const angle = mul(net.g, numbers, net.g.constant(float32([1, half], frequencies)));
  const parts = [cos(net.g, angle), sin(net.g, angle)];
  return concat(net.g, flipSinToCos ? parts : parts.reverse(), 1);
}

/**
 * What the residual blocks read of the timestep, from inputs that are made here: `timestep` [B], and in UNets with added
 * inputs `text_embeds` [B, P] and `time_ids` [B, 6] of each source.
 * @param sources texts that share the picture. Default 1
 * @param apart   whether they keep to themselves. Default: they do not
 * @returns SiLU of the embedding, [B, 4 · C₀]; of several sources, in UNets that read their pooled text, [B, S, 4 · C₀]
 */
export function timeEmbedding(
  net: NetworkBuilder,
  config: UnetConfig,
  batch: number,
  sources = 1,
  apart = false,
): Value {
  const { g } = net;
  const [{ channels }] = config.blocks as [UnetConfig['blocks'][number]];
  const timestep = reshape(g, g.input('timestep', 'float32', [batch]), [batch, 1]);
  const time = embedding(net, 'time_embedding', sinusoids(net, timestep, channels, config), 4 * channels);
  const { addedInputs, sizeEmbeddingDim } = config;
  if (addedInputs === undefined || sizeEmbeddingDim === undefined) return silu(g, time);
  const sizesWidth = TIME_IDS * sizeEmbeddingDim;
  const width = addedInputs - sizesWidth;
  const read = Array.from({ length: sources }, (_, source) => {
    const pooled = g.input(textEmbedsInput(source), 'float32', [batch, width]);
    const ids = g.input(timeIdsInput(source, apart), 'float32', [batch, TIME_IDS]);
    const numbers = sinusoids(net, reshape(g, ids, [batch * TIME_IDS, 1]), sizeEmbeddingDim, config);
    const own = concat(g, [pooled, reshape(g, numbers, [batch, sizesWidth])], 1);
    return sources === 1 ? own : reshape(g, own, [batch, 1, addedInputs]);
  });
  if (sources === 1) return silu(g, add(g, time, embedding(net, 'add_embedding', read[0]!, 4 * channels)));
  const added = embedding(net, 'add_embedding', concat(g, read, 1), 4 * channels);
  return silu(g, add(g, reshape(g, time, [batch, 1, 4 * channels]), added));
}

/** Two linear layers with SiLU between them, over the last axis: x [B, …, n] → [B, …, out]. */
function embedding(net: NetworkBuilder, name: string, x: Value, out: number): Value {
  return net.within(name, () => {
    const hidden = linear(net, x, 'linear_1', { out });
    return linear(net, silu(net.g, hidden), 'linear_2', { out });
  });
}
