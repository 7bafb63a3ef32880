/**
 * Families whose layers are not listed here: adapters of them are worked with by the names that files have, models of them
 * are refused by name.
 */
import { blockNumbers } from './blocks.ts';
import type { AdapterModule, Family, FamilySigns } from './family.ts';

/** A family by its names alone. */
export const foreign = (name: string, title: string, signs: FamilySigns): Family => ({
  name,
  title,
  shortTitle: title,
  signs,
  blockNames: new Map(),
  blockOf: null,
  adapters: null,
  base: null,
});

/** A family whose blocks later models have taken over. */
const kin = (name: string, title: string, signs: FamilySigns): Family => ({
  ...foreign(name, `${title} or a model built like it`, signs),
  shortTitle: title,
});

/** Double and single blocks are Flux' and its descendants' (Chroma, HunyuanVideo, …), in the original's and diffusers' names. */
export const flux: Family = {
  ...kin('flux', 'Flux', {
    names: [/(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]/],
    titles: /flux/i,
    pipelines: /Flux/,
  }),
  // Source: hako-mikan/sd-webui-lora-block-weight, BLOCKIDFLUX.
  blockNames: new Map([
    [61, ['CLIP', 'T5', 'IN', ...blockNumbers('D', 0, 18), ...blockNumbers('S', 0, 37), 'OUT']],
  ]),
  blockOf: fluxBlock,
};

function fluxBlock({ component, layerName }: AdapterModule): string | null {
  if (component === 'encoder') return /^te1_|clip_l/.test(layerName) ? 'CLIP' : 'T5';
  const [, single, number] =
    /^(single_)?(?:double_blocks|blocks|transformer_blocks)_(\d+)_/.exec(layerName) ?? [];
  if (number !== undefined) return `${single === undefined ? 'D' : 'S'}${number.padStart(2, '0')}`;
  if (/^(final_layer|proj_out|norm_out)/.test(layerName)) return 'OUT';
  return /^((img|txt|time|vector|guidance)_in|x_embedder|context_embedder|time_text_embed)_?/.test(layerName)
    ? 'IN'
    : null;
}

export const sd3 = foreign('sd3', 'SD 3', {
  names: [/(^|[._])joint_blocks[._]/],
  titles: /^sd[ _-]?(v[ _-]?)?3|stable[ _-]diffusion[ _-](v[ _-]?)?3/i,
  pipelines: /StableDiffusion3/,
});

/** Blocks of two streams, which other families call otherwise; attention as in Flux and SD 3, in more blocks than those have. */
export const qwenImage = kin('qwen-image', 'Qwen-Image', {
  names: [
    /(^|[._])transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)[._]/,
    /(^|[._])transformer_blocks[._](3[89]|[45]\d)[._]attn[._](to|add)_/,
  ],
  titles: /qwen/i,
  pipelines: /QwenImage/,
});

export const lumina = kin('lumina', 'Lumina 2 (Z-Image is one)', {
  names: [
    /(^|[._])((noise|context)_refiner|layers)[._]\d+[._](attention[._](qkv|to_[qkv]|to_out|out)|feed_forward[._]w\d)[._]/,
  ],
  titles: /lumina|z[ _-]?image/i,
  pipelines: /Lumina|ZImage/,
});

export const wan = kin('wan', 'Wan', {
  names: [/(^|[._])blocks[._]\d+[._](self|cross)_attn[._][qkvo](_img)?[._]/],
  titles: /\bwan[ _-]?(v?\d|video)/i,
  pipelines: /^Wan/,
});

/** Told by their pipelines alone. */
export const others: readonly Family[] = ['Kandinsky', 'PixArt', 'Sana', 'Cascade'].map((title) =>
  foreign(title.toLowerCase(), title, { names: [], pipelines: new RegExp(title) }),
);

/** Whatever else there is, and comes. */
export const unlisted = foreign('other', 'a family that edlora does not draw', { names: [] });
