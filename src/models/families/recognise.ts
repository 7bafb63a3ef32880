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
  /** Asked in this order. Default: all that are known. */
  readonly families?: readonly Family[];
}

/** Keys and values of a UNet's attention to the text; other models call theirs alike, of other widths. */
const contextLayer =
  /(?:(?:down|up|input|output)_blocks|mid(?:dle)?_block)[._].*attn2[._](processor[._])?to_[kv]([._](lora_down|lora_A|lora[._]down|lora_linear_layer[._]down|hada_w[12]_b|diff|weight)|_lora\.down)/;

/** What a base's own transformers begin with, in diffusers' names and the original's. */
const ownProjection =
  /^(down_blocks\.\d+\.attentions|model\.diffusion_model\.input_blocks\.\d+)\.\d+\.proj_in\.weight$/;

/**
 * The family that names or widths prove; `null` where nothing speaks for any.
 * @param tensors name and shape of every tensor; `[…, width]` is read off down factors and weights of `attn2.to_k`/`to_v`
 */
export function provenFamily(
  tensors: Iterable<Named>,
  { families = FAMILIES }: RecogniseOptions = {},
): Family | null {
  const all = [...tensors];
  const widths = new Set(
    all.flatMap(({ name, shape }) => (shape.length >= 2 && contextLayer.test(name) ? [shape[1]!] : [])),
  );
  // Sign by sign over the whole file.
  for (const family of families) {
    const { names, contextWidth, needsBoth = false } = family.signs;
    if (needsBoth && !widths.has(contextWidth!)) continue;
    if (all.some(({ name }) => names.some((sign) => sign.test(name)))) return family;
  }
  for (const width of widths) {
    const family = families.find(({ signs }) => signs.contextWidth === width);
    if (family !== undefined) return family;
  }
  const isLinear = all.some(({ name, shape }) => shape.length === 2 && ownProjection.test(name));
  return (isLinear && families.find(({ signs }) => signs.linearProjections)) || null;
}

/** The family of a model or adapter; the default family's where nothing speaks for another. */
export function familyOf(tensors: Iterable<Named>, options: RecogniseOptions = {}): Family {
  return provenFamily(tensors, options) ?? DEFAULT_FAMILY;
}

/** The family that a header's words for a model mean, as `sdxl_base_v1-0`; `null` if no family claims them. */
export function familyOfTitle(title: string, families: readonly Family[] = FAMILIES): Family | null {
  return families.find(({ signs }) => signs.titles?.test(title)) ?? null;
}

/** The family of a diffusers pipeline by its class; `null` if no family claims it. */
export function familyOfPipeline(className: string, families: readonly Family[] = FAMILIES): Family | null {
  return families.find(({ signs }) => signs.pipelines?.test(className)) ?? null;
}

/** Which family has embeddings of this width, for messages. */
export function familyOfWordWidth(width: number): Family | null {
  return FAMILIES.find(({ signs }) => signs.wordWidth === width) ?? null;
}
