/** The layer that CLIP's text and vision towers are stacks of. */
import type { GraphBuilder } from '../../graph/builder.ts';
import { multiHeadAttention } from '../../graph/ops/attention.ts';
import { add, gelu, quickGelu } from '../../graph/ops/elementwise.ts';
import type { Value } from '../../graph/value.ts';
import { layerNorm, linear } from '../layers.ts';
import type { NetworkBuilder } from '../network.ts';

export interface ClipLayerConfig {
  /** D. */
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHeads: number;
  readonly hiddenAct: 'quick_gelu' | 'gelu';
  readonly layerNormEpsilon: number;
}

/** From queries, keys and values, rows in the layer's own layout, to what each row attends to. */
export type Attend = (projected: { readonly q: Value; readonly k: Value; readonly v: Value }) => Value;

/**
 * Attention and MLP, each behind a layer norm and beside a residual; weights of the current scope.
 * @param hidden [B, T, D], or any other layout of rows that `attend` takes
 * @param attend usually `attention`
 * Source: Hugging Face transformers, models/clip/modeling_clip.py, CLIPEncoderLayer.
 */
export function clipLayer(
  net: NetworkBuilder,
  hidden: Value,
  config: ClipLayerConfig,
  attend: Attend,
): Value {
  const { g } = net;
  const { hiddenSize: width, layerNormEpsilon } = config;
  const x = layerNorm(net, hidden, 'layer_norm1', layerNormEpsilon);
  const attended = net.within('self_attn', () => {
    const q = linear(net, x, 'q_proj', { out: width });
    const k = linear(net, x, 'k_proj', { out: width });
    const v = linear(net, x, 'v_proj', { out: width });
    return linear(net, attend({ q, k, v }), 'out_proj', { out: width });
  });
  return clipFeedForward(net, add(g, hidden, attended), config);
}

/** The layer's second half: x + fc2(act(fc1(norm(x)))). */
export function clipFeedForward(net: NetworkBuilder, x: Value, config: ClipLayerConfig): Value {
  const { hiddenSize: width, intermediateSize, layerNormEpsilon } = config;
  const y = layerNorm(net, x, 'layer_norm2', layerNormEpsilon);
  const mlp = net.within('mlp', () => {
    const inner = linear(net, y, 'fc1', { out: intermediateSize });
    return linear(net, clipActivation(net.g, inner, config), 'fc2', { out: width });
  });
  return add(net.g, x, mlp);
}

/** The activation of a model's MLPs. */
export function clipActivation(
  g: GraphBuilder,
  x: Value,
  { hiddenAct }: Pick<ClipLayerConfig, 'hiddenAct'>,
): Value {
  return hiddenAct === 'quick_gelu' ? quickGelu(g, x) : gelu(g, x);
}

/** Attention of [B, T, D]. @param mask added to the scores, broadcastable to [B, heads, T, T]; null for none */
export function attention(g: GraphBuilder, numHeads: number, mask: Value | null): Attend {
  return ({ q, k, v }) => multiHeadAttention(g, { q, k, v, bias: mask }, numHeads);
}
