/** Every parameter of a UNet of a configuration: what its file may hold, since the graph reads nothing else. */
import { unetLayers } from './changeable-layers.ts';
import type { UnetConfig } from './config.ts';
import { attentionPlaces, resnetPlaces, transformerPlaces } from './structure.ts';

/** Keys, queries and values have no bias. */
const hasBias = (layerName: string): boolean => !/\.attn[12]\.to_[qkv]$/.test(layerName);

/** Names as diffusers gives them, `.weight` and `.bias` included. */
export function unetParameters(config: UnetConfig): ReadonlySet<string> {
  const both = (module: string): string[] => [`${module}.weight`, `${module}.bias`];
  return new Set([
    ...unetLayers(config).flatMap(({ layerName }) =>
      hasBias(layerName) ? both(layerName) : [`${layerName}.weight`],
    ),
    ...resnetPlaces(config).flatMap(({ path }) => [...both(`${path}.norm1`), ...both(`${path}.norm2`)]),
    ...transformerPlaces(config).flatMap(({ path }) => both(`${path}.norm`)),
    ...attentionPlaces(config).flatMap(({ path }) => [1, 2, 3].flatMap((i) => both(`${path}.norm${i}`))),
    ...both('conv_norm_out'),
  ]);
}
