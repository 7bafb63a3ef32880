/** Configuration of CLIP's text encoder, as in `text_encoder/config.json`. */
import { z } from 'zod';
import { only } from '../built-fields.ts';

export interface ClipTextConfig {
  /** D, 768 in SD 1.x. */
  readonly hiddenSize: number;
  /** Outputs of a projection of the pooled state, a layer of its own. Default none. */
  readonly projectionDim?: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** 77. */
  readonly maxPositions: number;
  readonly hiddenAct: 'quick_gelu' | 'gelu';
  readonly layerNormEpsilon: number;
  /** As stored; SD 1.x configs carry 2, see `pooledPosition`. */
  readonly eosTokenId: number;
}

const size = z.number().int().positive().max(65_536);

const fields = z.object({
  model_type: only('clip_text_model'),
  hidden_size: size.default(512),
  intermediate_size: size.default(2048),
  num_hidden_layers: size.max(1000).default(12),
  num_attention_heads: size.default(8),
  max_position_embeddings: size.min(3).default(77),
  hidden_act: z.enum(['quick_gelu', 'gelu']).default('quick_gelu'),
  layer_norm_eps: z.number().positive().max(1).default(1e-5),
  eos_token_id: z.number().int().default(49_407),
});

const headsFit = {
  check: (json: z.output<typeof fields>): boolean => json.hidden_size % json.num_attention_heads === 0,
  error: { path: ['num_attention_heads'], error: 'expected a divisor of hidden_size' },
};

const configOf = (json: z.output<typeof fields>): ClipTextConfig => ({
  hiddenSize: json.hidden_size,
  intermediateSize: json.intermediate_size,
  numLayers: json.num_hidden_layers,
  numHeads: json.num_attention_heads,
  maxPositions: json.max_position_embeddings,
  hiddenAct: json.hidden_act,
  layerNormEpsilon: json.layer_norm_eps,
  eosTokenId: json.eos_token_id,
});

export const clipTextSchema = fields.refine(headsFit.check, headsFit.error).transform(configOf);

/** Of `CLIPTextModelWithProjection`; the plain model's configuration has the width too, and no such layer. */
export const clipTextWithProjectionSchema = fields
  .extend({ projection_dim: size.default(512) })
  .refine(headsFit.check, headsFit.error)
  .transform((json): ClipTextConfig => ({ ...configOf(json), projectionDim: json.projection_dim }));
