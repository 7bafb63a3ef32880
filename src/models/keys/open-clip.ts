/**
 * Names of OpenCLIP's text encoder in original single files, whose attention has queries, keys and values in one matrix.
 * Source: open_clip, transformer.py (`TextTransformer`); ldm and generative-models keep it under `model.`.
 */
import type { ReadNames } from './read-names.ts';

const WHOLE: ReadonlyMap<string, string> = new Map([
  ['token_embedding.weight', 'embeddings.token_embedding.weight'],
  ['positional_embedding', 'embeddings.position_embedding.weight'],
  ['ln_final.weight', 'final_layer_norm.weight'],
  ['ln_final.bias', 'final_layer_norm.bias'],
]);

const IN_BLOCK: ReadonlyMap<string, string> = new Map([
  ['ln_1', 'layer_norm1'],
  ['ln_2', 'layer_norm2'],
  ['attn.out_proj', 'self_attn.out_proj'],
  ['mlp.c_fc', 'mlp.fc1'],
  ['mlp.c_proj', 'mlp.fc2'],
]);

/** @param prefix what its names begin with: `conditioner.embedders.1.model.` in SDXL, `cond_stage_model.model.` in SD 2 */
export const openClipNames =
  (prefix: string): ReadNames =>
  (stored) => {
    if (!stored.startsWith(prefix)) return [];
    const rest = stored.slice(prefix.length);
    // A product's right side there, a linear layer's weight here.
    if (rest === 'text_projection') return [{ transposed: 'text_projection.weight' }];
    const whole = WHOLE.get(rest);
    if (whole !== undefined) return [`text_model.${whole}`];
    const block = /^transformer\.resblocks\.(\d+)\.(.+)$/.exec(rest);
    if (block === null) return [];
    const layer = `text_model.encoder.layers.${block[1]}`;
    const fused = /^attn\.in_proj_(weight|bias)$/.exec(block[2]!);
    if (fused !== null) return ['q', 'k', 'v'].map((part) => `${layer}.self_attn.${part}_proj.${fused[1]}`);
    const [, module, param] = /^(.+)\.(weight|bias)$/.exec(block[2]!) ?? [];
    const own = IN_BLOCK.get(module ?? '');
    return own === undefined ? [] : [`${layer}.${own}.${param}`];
  };
