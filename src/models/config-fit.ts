/**
 * A configuration held against the weights beside it, when a model is opened: sizes that only the configuration claims
 * would be allocated long before a graph misses the weights.
 */
import { FormatError } from '../errors.ts';
import type { ClipTextConfig } from './clip/config.ts';
import type { WeightSource } from './network.ts';
import { moreChannels, type UnetConfig } from './unet/config.ts';
import type { VaeConfig } from './vae/config.ts';

/** A field, and the weight's axis that shows it. A weight that is not there is left to whoever needs it. */
interface Claim {
  readonly field: string;
  readonly value: number;
  readonly weight: string;
  readonly axis: number;
  /** What it means that the weight has another size. */
  readonly hint?: (size: number) => string;
}

/** @throws {FormatError} naming the first field that its weight contradicts */
function checkClaims(file: string, weights: WeightSource, claims: readonly Claim[]): void {
  for (const { field, value, weight, axis, hint } of claims) {
    const shape = weights.get(weight)?.shape;
    if (shape === undefined || shape[axis] === value) continue;
    const size = shape[axis];
    const why = hint === undefined || size === undefined ? '' : `; ${hint(size)}`;
    throw new FormatError(
      file,
      `${field}: expected ${size ?? 'no such size'}, as ${weight} [${shape.join(', ')}] has it in ${weights.label}, got ${value}${why}`,
    );
  }
}

/** @param file the configuration, for messages. @throws {FormatError} naming the field that does not fit */
export function checkUnetFits(file: string, config: UnetConfig, weights: WeightSource): void {
  const last = config.layersPerBlock - 1;
  checkClaims(file, weights, [
    { field: 'in_channels', value: config.inChannels, weight: 'conv_in.weight', axis: 1, hint: moreChannels },
    { field: 'out_channels', value: config.outChannels, weight: 'conv_out.weight', axis: 0 },
    ...config.blocks.flatMap(({ channels, crossAttention }, i): Claim[] => {
      const block = `down_blocks.${i}`;
      const attention = `${block}.attentions.0.transformer_blocks.0.attn2.to_k.weight`;
      return [
        {
          field: `block_out_channels[${i}]`,
          value: channels,
          weight: `${block}.resnets.${last}.conv1.weight`,
          axis: 0,
        },
        ...(crossAttention
          ? [{ field: 'cross_attention_dim', value: config.crossAttentionDim, weight: attention, axis: 1 }]
          : []),
      ];
    }),
  ]);
}

/** @throws as `checkUnetFits` */
export function checkVaeFits(file: string, config: VaeConfig, weights: WeightSource): void {
  const last = config.layersPerBlock - 1;
  checkClaims(file, weights, [
    { field: 'in_channels', value: config.inChannels, weight: 'encoder.conv_in.weight', axis: 1 },
    { field: 'latent_channels', value: config.latentChannels, weight: 'decoder.conv_in.weight', axis: 1 },
    { field: 'out_channels', value: config.outChannels, weight: 'decoder.conv_out.weight', axis: 0 },
    ...config.blockChannels.map((channels, i) => ({
      field: `block_out_channels[${i}]`,
      value: channels,
      weight: `encoder.down_blocks.${i}.resnets.${last}.conv1.weight`,
      axis: 0,
    })),
  ]);
}

/** @throws as `checkUnetFits` */
export function checkTextEncoderFits(file: string, config: ClipTextConfig, weights: WeightSource): void {
  const embeddings = 'text_model.embeddings';
  const layer = (index: number): string => `text_model.encoder.layers.${index}.mlp.fc1.weight`;
  checkClaims(file, weights, [
    {
      field: 'hidden_size',
      value: config.hiddenSize,
      weight: `${embeddings}.token_embedding.weight`,
      axis: 1,
    },
    {
      field: 'max_position_embeddings',
      value: config.maxPositions,
      weight: `${embeddings}.position_embedding.weight`,
      axis: 0,
    },
    { field: 'intermediate_size', value: config.intermediateSize, weight: layer(0), axis: 0 },
  ]);
  const last = config.numLayers - 1;
  if (weights.get(layer(0)) !== undefined && weights.get(layer(last)) === undefined) {
    let held = 0;
    while (weights.get(layer(held)) !== undefined) held++;
    throw new FormatError(
      file,
      `num_hidden_layers: expected at most ${held}, as ${weights.label} has them, got ${config.numLayers}`,
    );
  }
}
