/** The text encoder's linear layers, in order, with their [m, n]. */
import type { ClipTextConfig } from './config.ts';

/** Layer names carry the `text_model.` level. */
export function textLinearLayers(config: ClipTextConfig): Map<string, readonly [m: number, n: number]> {
  const { hiddenSize: width, intermediateSize: inner } = config;
  const layers = new Map<string, readonly [number, number]>();
  for (let i = 0; i < config.numLayers; i++) {
    const path = `text_model.encoder.layers.${i}`;
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) {
      layers.set(`${path}.self_attn.${name}`, [width, width]);
    }
    layers.set(`${path}.mlp.fc1`, [inner, width]);
    layers.set(`${path}.mlp.fc2`, [width, inner]);
  }
  return layers;
}
