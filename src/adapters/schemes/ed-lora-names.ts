/**
 * Names inside Mix-of-Show's ED-LoRA files: `new_concept_embedding.<word>`, and under `unet.` and `text_encoder.` the
 * diffusers path with `lora_down` and `lora_up`. In a `.pth` the first parts are dictionary levels (below `params`), in
 * a safetensors file they are joined by dots. No alpha is stored and none applies: the product counts undivided. Bases with two
 * text encoders have a second level of each kind: `text_encoder_2` and `new_concept_embedding_2`.
 */

import type { ModulePath } from '../../models/keys/module-path.ts';
import type { AdapterWord } from '../adapter.ts';

/** Where the vectors of each text encoder stand. Mix-of-Show has the first; the second is named as its layers are. */
export const EMBEDDING_LEVELS: Readonly<Record<AdapterWord['encoder'], string>> = {
  text_encoder: 'new_concept_embedding',
  text_encoder_2: 'new_concept_embedding_2',
};

/** Word and text encoder of an embedding's name; `null` if it is none. */
export function edLoraWord(key: string): Pick<AdapterWord, 'word' | 'encoder'> | null {
  const match = /^new_concept_embedding(_2)?\.(.+)$/s.exec(key);
  if (match === null) return null;
  return { word: match[2]!, encoder: match[1] === undefined ? 'text_encoder' : 'text_encoder_2' };
}

/** Name of a word's embedding in a flat file. */
export function edLoraEmbeddingKey({ word, encoder }: Pick<AdapterWord, 'word' | 'encoder'>): string {
  return `${EMBEDDING_LEVELS[encoder]}.${word}`;
}

/** Whether a name (flat, without `params.`) is spelled as Mix-of-Show spells factors. */
export function isEdLoraName(key: string): boolean {
  return /^(unet|text_encoder|text_encoder_2)\..+\.lora_(up|down)\.weight$/.test(key);
}

/** Name within its component's dictionary, e.g. `down_blocks.….to_q.lora_down.weight`. */
export function edLoraKey({ layerName }: ModulePath, part: 'up' | 'down'): string {
  return `${layerName}.lora_${part}.weight`;
}
