/**
 * A concept: the words that call it, one embedding per word and cross-attention layer, and one low-rank
 * delta per trained layer. Tensors stay in their file until someone reads them.
 */
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { Component } from '../models/keys/module-path.ts';

export type { Component } from '../models/keys/module-path.ts';

/** One word of a concept, e.g. `<smiley1>`. */
export interface ConceptToken {
  readonly word: string;
  /** [L, D], one row per cross-attention layer (down, middle, up); [1, D] where one vector serves all layers. */
  readonly embedding: RawTensor;
}

/** One layer's factors as stored: ΔW = scale · up · down. Factors of convolutions carry the kernel's axes. */
export interface LoraLayer {
  readonly component: Component;
  /**
   * Dotted module path in diffusers' names, without `.weight`: `down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`,
   * `text_model.encoder.layers.0.self_attn.q_proj` (always with the `text_model.` level, `to_out.0` with its index).
   */
  readonly layerName: string;
  /** [m, r] (or [m, r, 1, 1]). */
  readonly up: RawTensor;
  /** [r, n] (or [r, n, kh, kw]). */
  readonly down: RawTensor;
  readonly rank: number;
  /** What multiplies up · down: loraAlpha / rank for kohya and PEFT files, 1 for ED-LoRA files (no division by rank). */
  readonly scale: number;
}

/** How a file spells its keys. */
export type ConceptFormat = 'ed-lora' | 'kohya' | 'diffusers' | 'peft';

export interface Concept {
  /** Absolute path of the file (PEFT: of the folder, where it has several). */
  readonly path: string;
  readonly format: ConceptFormat;
  /** Words that call the concept, in order; empty for a plain LoRA without embeddings. */
  readonly tokens: readonly ConceptToken[];
  /** Keyed by `${component}:${layerName}`, in the order of the file. */
  readonly layers: ReadonlyMap<string, LoraLayer>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The words of a concept as one would write them in a prompt, e.g. `<smiley1> <smiley2>`; empty without tokens. */
export function conceptName(concept: Concept): string {
  return concept.tokens.map(({ word }) => word).join(' ');
}
