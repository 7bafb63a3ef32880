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

/** The same without padding, save where one text encoder has fewer tokens of it than another. */
export function plainIds(tokenizers: Tokenizers, text: string): PromptIds {
  const lists = [...tokenizers.values()].map((tokenizer) => ({ ids: tokenizer.encode(text), tokenizer }));
  const longest = Math.max(...lists.map(({ ids }) => ids.length));
  return lists.map(({ ids, tokenizer }) => [
    ...ids,
    ...Array<number>(longest - ids.length).fill(tokenizer.padId),
  ]);
}
