/** A text encoder's rows of the layer table: its linear layers, in order. */
import { type ComponentId, type Layer, layerOf } from '../families/layer-table.ts';
import type { ClipTextConfig } from './config.ts';

/** Layer names carry the `text_model.` level, all but the projection beside it. */
export function textLayers(config: ClipTextConfig, component: ComponentId = 'text_encoder'): Layer[] {
  const { hiddenSize: width, intermediateSize: inner, projectionDim } = config;
  const blocks = Array.from({ length: config.numLayers }, (_, i) => {
    const path = `text_model.encoder.layers.${i}`;
    return [
      ...['q_proj', 'k_proj', 'v_proj', 'out_proj'].map((name) =>
        layerOf(component, `${path}.self_attn.${name}`, [width, width], 'self-attention'),
      ),
      layerOf(component, `${path}.mlp.fc1`, [inner, width], 'feed-forward'),
      layerOf(component, `${path}.mlp.fc2`, [width, inner], 'feed-forward'),
    ];
  }).flat();
  return projectionDim === undefined
    ? blocks
    : [...blocks, layerOf(component, 'text_projection', [projectionDim, width], 'projection')];
}
