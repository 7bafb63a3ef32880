/**
 * Which family a file is of, as far as its names and the width of its text context tell: enough to refuse one of another
 * family by name.
 */
import { DEFAULT_FAMILY, FAMILIES } from './families.ts';
import type { Family } from './family.ts';

/** What a header says of a tensor. */
interface Named {
  readonly name: string;
  readonly shape: readonly number[];
}

export interface RecogniseOptions {
  /** Leave signs out that only tell what is likely. Default false. */
  readonly certain?: boolean;
  /** Asked in this order. Default: all that are known. */
  readonly families?: readonly Family[];
}

const contextLayer =
  /attn2[._](processor[._])?to_[kv][._](lora_down|lora_A|lora[._]down|weight)|attn2\.processor\.to_[kv]_lora\.down/;

/**
 * The family of a model or adapter; the default family's where nothing speaks for another.
 * @param tensors name and shape of every tensor; `[…, width]` is read off down factors and weights of `attn2.to_k`/`to_v`
 */
export function familyOf(
  tensors: Iterable<Named>,
  { certain = false, families = FAMILIES }: RecogniseOptions = {},
): Family {
  const all = [...tensors];
  // Sign by sign over the whole file.
  for (const family of families) {
    const { names, likelyNames = [] } = family.signs;
    const signs = certain ? names : [...names, ...likelyNames];
    if (all.some(({ name }) => signs.some((sign) => sign.test(name)))) return family;
  }
  for (const { name, shape } of all) {
    if (shape.length < 2 || !contextLayer.test(name)) continue;
    const family = families.find(({ signs }) => signs.contextWidth === shape[1]);
    if (family !== undefined) return family;
  }
  return DEFAULT_FAMILY;
}

/** The family of a diffusers pipeline by its class; `null` if no family claims it. */
export function familyOfPipeline(className: string, families: readonly Family[] = FAMILIES): Family | null {
  return families.find(({ signs }) => signs.pipelines?.test(className)) ?? null;
}

/** Which family has embeddings of this width, for messages. */
export function familyOfWordWidth(width: number): Family | null {
  return FAMILIES.find(({ signs }) => signs.wordWidth === width) ?? null;
}
