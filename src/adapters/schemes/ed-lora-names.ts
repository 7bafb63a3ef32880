/**
 * Names inside Mix-of-Show's ED-LoRA files: `new_concept_embedding.<word>`, and under `unet.` and `text_encoder.` the
 * diffusers path with `lora_down` and `lora_up`. In a `.pth` the first parts are dictionary levels (below `params`), in
 * a safetensors file they are joined by dots. No alpha is stored and none applies: the product counts undivided.
 */
import type { ModulePath } from '../../models/keys/module-path.ts';

const embeddingPrefix = 'new_concept_embedding.';

/** Word of an embedding's name; `null` if it is none. */
export function edLoraWord(key: string): string | null {
  return key.startsWith(embeddingPrefix) && key.length > embeddingPrefix.length
    ? key.slice(embeddingPrefix.length)
    : null;
}

/** Name of a word's embedding in a flat file. */
export function edLoraEmbeddingKey(word: string): string {
  return embeddingPrefix + word;
}

/** Whether a name (flat, without `params.`) is spelled as Mix-of-Show spells factors. */
export function isEdLoraName(key: string): boolean {
  return /^(unet|text_encoder)\..+\.lora_(up|down)\.weight$/.test(key);
}

/** Name within its component's dictionary, e.g. `down_blocks.….to_q.lora_down.weight`. */
export function edLoraKey({ layerName }: ModulePath, part: 'up' | 'down'): string {
  return `${layerName}.lora_${part}.weight`;
}
