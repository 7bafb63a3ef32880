/** CLIP's vision tower with its projection: normalised pixels to image embeddings. */
import { conv } from '../../graph/ops/convolution.ts';
import { add } from '../../graph/ops/elementwise.ts';
import { concat, reshape, slice } from '../../graph/ops/movement.ts';
import { float32 } from '../../tensor/tensor.ts';
import { layerNorm, toTokens } from '../layers.ts';
import { type Network, NetworkBuilder, type WeightSource } from '../network.ts';
import { projection } from './projection.ts';
import { attention, clipLayer } from './transformer.ts';
import type { ClipVisionConfig } from './vision-config.ts';

/**
 * Write the vision tower.
 *
 * Input: `pixel_values` [B, 3, imageSize, imageSize].
 * Outputs: `pooled` [B, D], the first token after the last norm; `image_embeds` [B, projectionDim], not normalised.
 * @throws {MissingWeightError | ShapeError} when the weights do not fit the config
 * Source: Hugging Face transformers, models/clip/modeling_clip.py, CLIPVisionTransformer, CLIPModel.get_image_features.
 */
export function buildVisionEncoder(
  weights: WeightSource,
  config: ClipVisionConfig,
  { batch, projectionDim }: { batch: number; projectionDim: number },
): Network {
  const { hiddenSize: width, imageSize, patchSize, numLayers, layerNormEpsilon } = config;
  const net = new NetworkBuilder(weights);
  const { g } = net;
  const pixels = g.input('pixel_values', 'float32', [batch, 3, imageSize, imageSize]);
  const positions = (imageSize / patchSize) ** 2 + 1;
  const pooled = net.within('vision_model', () => {
    let hidden = net.within('embeddings', () => {
      const kernel = net.weight('patch_embedding.weight', [width, 3, patchSize, patchSize]);
      const patches = toTokens(net, conv(g, pixels, kernel, null, { stride: patchSize }));
      const classToken = reshape(g, net.weight('class_embedding', [width]), [1, 1, width]);
      const first = add(g, g.constant(float32([batch, 1, width])), classToken);
      const table = net.weight('position_embedding.weight', [positions, width]);
      return add(g, concat(g, [first, patches], 1), reshape(g, table, [1, positions, width]));
    });
    // The name is misspelt in every checkpoint.
    hidden = layerNorm(net, hidden, 'pre_layrnorm', layerNormEpsilon);
    const attend = attention(g, config.numHeads, null);
    for (let layer = 0; layer < numLayers; layer++) {
      hidden = net.within(`encoder.layers.${layer}`, () => clipLayer(net, hidden, config, attend));
    }
    const first = reshape(g, slice(g, hidden, 1, 0, 1), [batch, width]);
    return layerNorm(net, first, 'post_layernorm', layerNormEpsilon);
  });
  g.output('pooled', pooled);
  g.output('image_embeds', projection(net, pooled, 'visual_projection', projectionDim));
  return net.finish();
}
