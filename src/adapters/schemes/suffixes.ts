/**
 * The end of a tensor's name: what the tensor is to its layer. Every spelling that a program writes or reads, over one set
 * of parts, which bear LyCORIS' names. What stands before the end names the layer, see layer-names.ts.
 */

const suffixes = {
  up: 'lora_up.weight',
  down: 'lora_down.weight',
  mid: 'lora_mid.weight',
  alpha: 'alpha',
  scale: 'scale',
  scalar: 'scalar',
  dora: 'dora_scale',
  w1a: 'hada_w1_a',
  w1b: 'hada_w1_b',
  w2a: 'hada_w2_a',
  w2b: 'hada_w2_b',
  t1: 'hada_t1',
  t2: 'hada_t2',
  k1: 'lokr_w1',
  k1a: 'lokr_w1_a',
  k1b: 'lokr_w1_b',
  k2: 'lokr_w2',
  k2a: 'lokr_w2_a',
  k2b: 'lokr_w2_b',
  k1t: 'lokr_t1',
  k2t: 'lokr_t2',
  diff: 'diff',
  biasDiff: 'diff_b',
  ia3: 'weight',
  onInput: 'on_input',
} as const;

/** What a tensor is to its layer. `scale` is A1111's: it counts in place of alpha / rank. */
export type AdapterPart = keyof typeof suffixes;

/** Suffix of a part in kohya's and LyCORIS' files. */
export const partSuffix: Readonly<Record<AdapterPart, string>> = suffixes;

/** Suffixes of one word, which every program spells alike; a layer's `weight` is one in underscored names alone. */
const words = new Map<string, AdapterPart>(
  Object.entries(suffixes).flatMap(([part, suffix]) =>
    suffix.includes('.') || suffix === 'weight' ? [] : [[suffix, part as AdapterPart]],
  ),
);

/**
 *   x.lora_up.weight, x.lora_up                                    kohya, ED-LoRA
 *   x.lora.up.weight, x_lora.up.weight, x.lora_linear_layer.up.weight   diffusers up to 0.26
 *   x.lora_B.weight, x.lora_B.<adapter>.weight, x.lora_B           diffusers since, PEFT; A is down, B is up
 */
const factors: readonly RegExp[] = [
  /^(.+)\.lora_(up|down|mid)(?:\.weight)?$/,
  /^(.+?)(?:[._]lora|\.lora_linear_layer)\.(up|down)\.weight$/,
  /^(.+)\.lora_([AB])(?:(?:\.[^.]+)?\.weight)?$/,
];

const letters: Readonly<Record<string, AdapterPart>> = { A: 'down', B: 'up' };

/** PEFT's name of DoRA's magnitude, with or without the adapter's own name. */
const magnitude = /^(.+)\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?$/;

/** A tensor's name as the name of its layer, in whatever spelling, and the part; `null` for an end that is none. */
export function splitName(name: string): { readonly layer: string; readonly part: AdapterPart } | null {
  for (const pattern of factors) {
    const match = pattern.exec(name);
    if (match !== null) return { layer: match[1]!, part: letters[match[2]!] ?? (match[2] as AdapterPart) };
  }
  const vector = magnitude.exec(name);
  if (vector !== null) return { layer: vector[1]!, part: 'dora' };
  const dot = name.lastIndexOf('.');
  const [layer, word] = [name.slice(0, Math.max(dot, 0)), name.slice(dot + 1)];
  if (layer === '') return null;
  const part = words.get(word);
  // Files whose factors end in `_lora.up.weight` may end their alphas so too.
  if (part !== undefined) return { layer: layer.replace(/[._]lora(_linear_layer)?$/, ''), part };
  return word === 'weight' && !layer.includes('.') ? { layer, part: 'ia3' } : null;
}
