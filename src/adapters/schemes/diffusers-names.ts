/**
 * diffusers' spellings of LoRA tensors, old to new:
 *
 *   unet.….attn1.processor.to_q_lora.down.weight   (≤ 0.17; text: ….self_attn.to_q_lora.down.weight)
 *   unet.….attn1.to_q.lora.down.weight             (0.18 … 0.26; text: ….q_proj.lora_linear_layer.down.weight)
 *   unet.….attn1.to_q.lora_A.weight                (now; A is down, B is up)
 *
 * with or without the component in front. Writing uses the last.
 */
import type { ModulePath } from '../../models/keys/module-path.ts';

export type DiffusersSpelling = 'processor' | 'lora' | 'lora_linear_layer' | 'lora_A';

const letters = { up: 'B', down: 'A' } as const;

/**
 * Tensor name in one of the spellings.
 * @returns `null` where the spelling has no name for the layer: `processor` knows attention only, `lora` the UNet,
 *   `lora_linear_layer` the text encoder
 */
export function diffusersLoraKey(
  { component, layerName }: ModulePath,
  part: 'up' | 'down',
  spelling: DiffusersSpelling = 'lora_A',
): string | null {
  const path = `${component}.${layerName}`;
  if (spelling === 'lora_A') return `${path}.lora_${letters[part]}.weight`;
  if (spelling === 'lora') return component === 'unet' ? `${path}.lora.${part}.weight` : null;
  if (spelling === 'lora_linear_layer') {
    return component !== 'unet' ? `${path}.lora_linear_layer.${part}.weight` : null;
  }
  const unet = /^(.+\.attn[12])\.to_(q|k|v|out)(?:\.0)?$/.exec(path);
  if (unet !== null) return `${unet[1]}.processor.to_${unet[2]}_lora.${part}.weight`;
  const text = /^(.+\.self_attn)\.(q|k|v|out)_proj$/.exec(path);
  return text === null ? null : `${text[1]}.to_${text[2]}_lora.${part}.weight`;
}
