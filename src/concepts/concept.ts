/**
 * A concept: the words that call it, one embedding per word and cross-attention layer, and one low-rank
 * delta per trained layer. Tensors stay in their file until someone reads them.
 */
import type { LoraLayer } from '../adapters/adapter.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import type { ComponentId } from '../models/families/layer-table.ts';
import type { Component } from '../models/keys/module-path.ts';

export type { Component } from '../models/keys/module-path.ts';

/** One word of a concept, e.g. `<smiley1>`. */
export interface ConceptToken {
  readonly word: string;
  /**
   * By text encoder: [L, D], one row per cross-attention layer (down, middle, up); [1, D] where one vector serves all layers.
   * Of a base with several, each has one of its own width.
   */
  readonly embeddings: ReadonlyMap<ComponentId, RawTensor>;
}

/** A layer's factors as stored, of plain LoRA: ΔW = scale · up · down. Factors of convolutions carry the kernel's axes. */
export type PlainLayer = LoraLayer & {
  readonly component: Component;
  readonly mid: null;
  readonly doraScale: null;
  readonly biasDiff: null;
};

/** How a file spells its keys. */
export type ConceptFormat = 'ed-lora' | 'kohya' | 'diffusers' | 'peft';

export interface Concept {
  /** Absolute path of the file (PEFT: of the folder, where it has several). */
  readonly path: string;
  readonly format: ConceptFormat;
  /** Name of the family that it is of, as far as names and sizes tell. Left out: not known, as of embeddings. */
  readonly family?: string;
  /** Words that call the concept, in order; empty for a plain LoRA without embeddings. */
  readonly tokens: readonly ConceptToken[];
  /** Keyed by `${component}:${layerName}`, in the order of the file. */
  readonly layers: ReadonlyMap<string, PlainLayer>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** The words of a concept as one would write them in a prompt, e.g. `<smiley1> <smiley2>`; empty without tokens. */
export function conceptName(concept: Concept): string {
  return concept.tokens.map(({ word }) => word).join(' ');
}
