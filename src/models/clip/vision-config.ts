/** Configuration of CLIP's vision tower, as in `vision_config` of a CLIP model's config.json. */
import { z } from 'zod';
import type { ClipLayerConfig } from './transformer.ts';

export interface ClipVisionConfig extends ClipLayerConfig {
  readonly numLayers: number;
  /** Side of the square picture, in pixels. */
  readonly imageSize: number;
  /** Side of one patch, in pixels; divides `imageSize`. */
  readonly patchSize: number;
}

const size = z.number().int().positive().max(65_536);

/** Defaults as in transformers' CLIPVisionConfig: files written by it leave them out. */
export const clipVisionSchema = z
  .object({
    hidden_size: size.default(768),
    intermediate_size: size.default(3072),
    num_hidden_layers: size.max(1000).default(12),
    num_attention_heads: size.default(12),
    image_size: size.max(2048).default(224),
    patch_size: size.default(32),
    hidden_act: z.enum(['quick_gelu', 'gelu']).default('quick_gelu'),
    layer_norm_eps: z.number().positive().max(1).default(1e-5),
  })
  .refine((json) => json.hidden_size % json.num_attention_heads === 0, {
    path: ['num_attention_heads'],
    error: 'expected a divisor of hidden_size',
  })
  .refine((json) => json.image_size % json.patch_size === 0, 'image_size is no multiple of patch_size')
  .transform(
    (json): ClipVisionConfig => ({
      hiddenSize: json.hidden_size,
      intermediateSize: json.intermediate_size,
      numLayers: json.num_hidden_layers,
      numHeads: json.num_attention_heads,
      imageSize: json.image_size,
      patchSize: json.patch_size,
      hiddenAct: json.hidden_act,
      layerNormEpsilon: json.layer_norm_eps,
    }),
  );
