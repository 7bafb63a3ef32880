/** Prompts as the text encoders of a base take them: each has a tokenizer of its own. */
import type { ClipTokenizer } from '../clip/tokenizer.ts';
import type { ComponentId } from './layer-table.ts';

/** Token ids of a prompt as one text encoder takes them: begin and end included. */
export type TokenIds = readonly number[];

/** The same of every text encoder of a base, in their order. */
export type PromptIds = readonly TokenIds[];

/** By component, in the order of the text encoders. */
export type Tokenizers = ReadonlyMap<ComponentId, ClipTokenizer>;

/** A text as every text encoder takes it, padded or cut to 77. */
export function paddedIds(tokenizers: Tokenizers, text: string): PromptIds {
  return [...tokenizers.values()].map((tokenizer) => tokenizer.encodePadded(text).ids);
}

/** Lists of ids for a base with one text encoder. */
export function forOneEncoder(lists: readonly TokenIds[]): PromptIds[] {
  return lists.map((ids) => [ids]);
}
