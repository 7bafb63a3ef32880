/** What a scene may ask for. Each limit lies far above any picture that a Stable Diffusion 1.x model draws well. */

/** Pixels of a side; models of this family fall apart above 1024. */
export const MAX_SIDE = 4096;
/** Of what a picture was before it was cut: only numbers for the model. */
export const MAX_ORIGINAL_SIDE = 2 ** 16;
/** Pixels of a picture, 2048 × 2048: the cost of attention grows with their square. */
export const MAX_PIXELS = 2 ** 22;
/** As many as models are trained with. */
export const MAX_STEPS = 1000;
/** File names have four digits. */
export const MAX_COUNT = 10_000;
/** Pictures in one pass of the UNet: beyond a dozen nothing gets faster. */
export const MAX_BATCH = 64;
/** Guidance is 1 … 20 in use. */
export const MAX_GUIDANCE = 100;
/** Numbers up to here keep every further seed of a run exact. */
export const MAX_SEED = 2 ** 52;
/** Of adapters, guides and concepts; 1 is as trained. */
export const MAX_STRENGTH = 100;
/** Each region costs memory and time at every step. */
export const MAX_REGIONS = 64;
/** Of a polygon: each is compared with every line of the picture. */
export const MAX_CORNERS = 1024;
/** A region's part where regions overlap; more than this to one is the whole. */
export const MAX_REGION_WEIGHT = 1000;
/** Pixels over which an edge fades: the longest side. */
export const MAX_FEATHER = MAX_SIDE;
/** A prompt of more than a hundred windows of 75 tokens says nothing to a model any more. */
export const MAX_PROMPT_LENGTH = 10_000;
/** Of all masks of a scene together: 32 of 1024 × 1024. They are averaged for each resolution of the UNet in one go. */
export const MAX_MASK_PIXELS = 2 ** 25;
/** Files of one kind in a scene. */
export const MAX_FILES = 256;
/** T2I-Adapters or ControlNets: each is a network with its picture in memory. */
export const MAX_GUIDES = 16;
/** Entries of a style mix; Stable Diffusion 1.x has 16 cross-attention layers. */
export const MAX_LAYERS = 256;
/** Texts and pictures of one mean. */
export const MAX_PARTS = 64;
/** No file system takes longer paths. */
export const MAX_PATH_LENGTH = 4096;

/** `0 … 4096`, and what came instead. */
export function rangeMessage(low: number, high: number, got: unknown, what = ''): string {
  return `expected ${what}${low} … ${high}, got ${String(got)}`;
}
