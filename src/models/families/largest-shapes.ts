/**
 * How large each layer's weight is at most in any family whose adapters are read, by its name: what a file claims beyond
 * that fits no base, and is refused before it is expanded.
 */
import { type AdapterModule, adapterModuleId } from './adapter-layers.ts';
import { ADAPTER_FAMILIES } from './families.ts';
import { publishedLayers, templateOf } from './known-layers.ts';
import type { Layer } from './layer-table.ts';

/** [outputs, inputs · kernel height · kernel width]. */
export type WeightShape = readonly [rows: number, columns: number];

/** Channels of latents with mask and masked picture beside them (inpainting). */
const LATENT_CHANNELS = 9;

const all = ADAPTER_FAMILIES.flatMap((family) => [...publishedLayers(family)]);
const largest = (layers: readonly Layer[]): WeightShape =>
  layers.reduce<WeightShape>(([m, n], layer) => [Math.max(m, layer.m), Math.max(n, layer.n)], [0, 0]);

/** Rows and columns that any layer has at most: the feed-forward's outputs, the inputs of a resnet's first convolution. */
export const [LARGEST_ROWS, LARGEST_COLUMNS] = largest(all);
/** Numbers that any layer's weight has at most: that first convolution's. */
export const LARGEST_WEIGHT = all.reduce((most, { m, n }) => Math.max(most, m * n), 0);

/** Rows and columns of a layer that is not listed: what no model comes near. */
const UNLISTED_SIDE = 2 ** 18;
/** Numbers of such a layer: those of a vocabulary of 150,000 words at width 3,584. */
export const LARGEST_UNLISTED_WEIGHT = 2 ** 29;

/** Whether a layer is of a family whose layers are not listed. */
export function isUnlisted({ component }: Pick<AdapterModule, 'component'>): boolean {
  return component === 'network' || component === 'encoder';
}

/** What layers of one size share: network, block, and place in the block. */
const kinds = ({ component, layerName }: Pick<Layer, 'component' | 'layerName'>): [string, string] => {
  const network = component === 'unet' ? 'unet' : 'text';
  const block = /^(?:down|up)_blocks\.\d+/.exec(layerName)?.[0] ?? '';
  const template = templateOf(layerName);
  return [`${network}:${block}:${template}`, `${network}:${template}`];
};

/** By block where the published models have the block, else by the kind of layer. */
const shapes = new Map<string, WeightShape>();
for (const layer of all) {
  const { role, m, n, kernel } = layer;
  const area = kernel === null ? 1 : kernel[0] * kernel[1];
  const inputs = role === 'edge' ? Math.max(n, LATENT_CHANNELS * area) : n;
  const outputs = role === 'edge' ? Math.max(m, LATENT_CHANNELS) : m;
  for (const kind of kinds(layer)) {
    const [rows, columns] = shapes.get(kind) ?? [0, 0];
    shapes.set(kind, [Math.max(rows, outputs), Math.max(columns, inputs)]);
  }
}

const cache = new Map<string, WeightShape>();

/** The largest shape that a layer of this name has in any family; for a name that is in none, that of any layer. */
export function largestShapeOf(module: AdapterModule): WeightShape {
  if (isUnlisted(module)) return [UNLISTED_SIDE, UNLISTED_SIDE];
  const id = adapterModuleId(module);
  let shape = cache.get(id);
  if (shape === undefined) {
    shape = kinds(module)
      .map((kind) => shapes.get(kind))
      .find((found) => found !== undefined) ?? [LARGEST_ROWS, LARGEST_COLUMNS];
    // Names come from files: they must not pile up.
    if (cache.size < 10_000) cache.set(id, shape);
  }
  return shape;
}
