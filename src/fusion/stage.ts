/**
 * The three stages of a fusion. Each feeds the next: the text encoder makes the features that K and V of the
 * cross-attentions read, and both shape what the spatial layers see.
 */
import type { Component } from '../models/keys/module-path.ts';

export const STAGES = ['text', 'cross', 'spatial'] as const;
export type Stage = (typeof STAGES)[number];

/** One number per stage. */
export type PerStage = Readonly<Record<Stage, number>>;

/** `text`: text encoder; `cross`: K and V of cross-attentions; `spatial`: every other linear layer of the UNet. */
export function stageOf({ component, layerName }: { component: Component; layerName: string }): Stage {
  if (component === 'text_encoder') return 'text';
  return /\.attn2\.to_[kv]$/.test(layerName) ? 'cross' : 'spatial';
}
