/**
 * How large each layer's weight is at most in Stable Diffusion 1.x and SDXL, by its name: what a file claims beyond that
 * fits no base, and is refused before it is expanded.
 */
import { type AdapterModule, adapterModuleId } from './sd-modules.ts';

/** [outputs, inputs · kernel height · kernel width]. */
export type WeightShape = readonly [rows: number, columns: number];

/** Channels by block, the wider of both models; deeper blocks do not get wider. */
const DOWN_CHANNELS = [320, 640, 1280, 1280];
const UP_CHANNELS = [1280, 1280, 640, 320];
const MOST_CHANNELS = 1280;
/** Channels that a resnet reads at most: its own and those of the skip connection. */
const RESNET_INPUTS = 2 * MOST_CHANNELS;
/** Numbers per word that cross-attention reads: SDXL's. */
const CONTEXT = 2048;
/** Channels of latents with mask and masked picture beside them (inpainting). */
const LATENT_INPUTS = 9;
/** 3 × 3. */
const KERNEL = 9;
/** Width of a text encoder at most: SDXL's second, which is wider than that of SD 1.x and 2.x. */
const TEXT_WIDTH = 1280;

/** Rows and columns that any layer has at most: the feed-forward's outputs, the inputs of a resnet's first convolution. */
export const LARGEST_ROWS = 8 * MOST_CHANNELS;
export const LARGEST_COLUMNS = RESNET_INPUTS * KERNEL;
/** Numbers that any layer's weight has at most: that first convolution's. */
export const LARGEST_WEIGHT = MOST_CHANNELS * LARGEST_COLUMNS;

const channelsOf = (layerName: string): number => {
  const match = /^(down|up)_blocks\.(\d+)\./.exec(layerName);
  if (match === null) return MOST_CHANNELS;
  return (match[1] === 'down' ? DOWN_CHANNELS : UP_CHANNELS)[Number(match[2])] ?? MOST_CHANNELS;
};

/** Ends of a UNet's layer names, with the shape for c channels. The first that matches holds. */
const unetShapes: readonly (readonly [RegExp, (c: number) => WeightShape])[] = [
  [/^conv_in$/, () => [320, LATENT_INPUTS * KERNEL]],
  [/^conv_out$/, () => [LATENT_INPUTS, 320 * KERNEL]],
  [/^time_embedding\./, () => [MOST_CHANNELS, MOST_CHANNELS]],
  [/\.attn2\.to_[kv]$/, (c) => [c, CONTEXT]],
  [/\.attn\d\.to_(q|k|v|out\.0)$/, (c) => [c, c]],
  [/\.ff\.net\.0\.proj$/, (c) => [8 * c, c]],
  [/\.ff\.net\.2$/, (c) => [c, 4 * c]],
  [/\.proj_(in|out)$/, (c) => [c, c]],
  [/\.conv1$/, (c) => [c, RESNET_INPUTS * KERNEL]],
  [/\.conv_shortcut$/, (c) => [c, RESNET_INPUTS]],
  [/\.time_emb_proj$/, (c) => [c, MOST_CHANNELS]],
  [/\.(conv2|conv)$/, (c) => [c, c * KERNEL]],
];

const cache = new Map<string, WeightShape>();

/** The largest shape that a layer of this name has in either model; for a name that is in neither, that of any layer. */
export function largestShapeOf(module: AdapterModule): WeightShape {
  const id = adapterModuleId(module);
  let shape = cache.get(id);
  if (shape === undefined) {
    shape = shapeByName(module);
    // Names come from files: they must not pile up.
    if (cache.size < 10_000) cache.set(id, shape);
  }
  return shape;
}

function shapeByName({ component, layerName }: AdapterModule): WeightShape {
  if (component !== 'unet') {
    if (layerName.endsWith('.mlp.fc1')) return [4 * TEXT_WIDTH, TEXT_WIDTH];
    if (layerName.endsWith('.mlp.fc2')) return [TEXT_WIDTH, 4 * TEXT_WIDTH];
    if (/\.self_attn\.\w+$/.test(layerName)) return [TEXT_WIDTH, TEXT_WIDTH];
    return [LARGEST_ROWS, LARGEST_COLUMNS];
  }
  const shape = unetShapes.find(([pattern]) => pattern.test(layerName))?.[1](channelsOf(layerName));
  return shape ?? [LARGEST_ROWS, LARGEST_COLUMNS];
}
