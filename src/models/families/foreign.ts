/** Families that are only recognised, so that their files are refused by name. */
import type { Family, FamilySigns } from './family.ts';

const foreign = (name: string, title: string, signs: FamilySigns): Family => ({
  name,
  title,
  shortTitle: title,
  signs,
  adapters: null,
  base: null,
});

export const flux = foreign('flux', 'Flux', {
  names: [/(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]/],
  titles: /flux/i,
  pipelines: /Flux/,
});

export const sd3 = foreign('sd3', 'SD 3', {
  names: [
    /(^|[._])joint_blocks[._]|^transformer\.transformer_blocks\.|^lora_transformer_transformer_blocks_/,
  ],
  titles: /^sd[ _-]?(v[ _-]?)?3|stable[ _-]diffusion[ _-](v[ _-]?)?3/i,
  pipelines: /StableDiffusion3/,
  contextWidth: 4096,
});

export const sd2 = foreign('sd2', 'SD 2.x', {
  names: [/^cond_stage_model\.model\.transformer\.resblocks\./],
  titles: /^sd[ _-]?(v[ _-]?)?2|stable[ _-]diffusion[ _-](v[ _-]?)?2/i,
  contextWidth: 1024,
  wordWidth: 1024,
});

/** Told by their pipelines alone. */
export const others: readonly Family[] = ['Kandinsky', 'PixArt', 'Sana', 'Cascade'].map((title) =>
  foreign(title.toLowerCase(), title, { names: [], pipelines: new RegExp(title) }),
);
