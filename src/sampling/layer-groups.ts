/**
 * Style mixing: other prompts for single cross-attention layers, by index or by group. Coarse layers settle shape and
 * layout, fine layers colour and texture. Source: Voynov et al. 2023 (2303.09522, "P+: Extended Textual Conditioning").
 */

import { UsageError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { UnetConfig } from '../models/unet/config.ts';
import { attentionPlaces } from '../models/unet/structure.ts';
import { nearestName } from '../nearest-name.ts';

export type LayerGroup = 'coarse' | 'middle' | 'fine';

/**
 * Layers by resolution: fine at the latents' own, coarse at the two lowest (the middle block's and the one before),
 * middle between. Indices in context order.
 */
export function layerGroups(config: UnetConfig): Readonly<Record<LayerGroup, readonly number[]>> {
  const places = attentionPlaces(config);
  const levels = [...new Set(places.map(({ level }) => level))].sort((a, b) => a - b);
  const groupOf = (level: number): LayerGroup =>
    level === levels[0] ? 'fine' : level >= levels.at(-2)! ? 'coarse' : 'middle';
  const of = (group: LayerGroup): number[] =>
    places.flatMap(({ level }, index) => (groupOf(level) === group ? [index] : []));
  return { coarse: of('coarse'), middle: of('middle'), fine: of('fine') };
}

/**
 * Prompts per layer from `{ "coarse": …, "0-5": …, "7": …, "0,2": … }`; later entries win.
 * @throws {UsageError} for a name that is no group, no index and no range
 */
export function parseStyleMix(
  mix: Readonly<Record<string, string>>,
  config: UnetConfig,
): ReadonlyMap<number, string> {
  const groups = layerGroups(config);
  const layerCount = attentionPlaces(config).length;
  const prompts = new Map<number, string>();
  for (const [names, prompt] of Object.entries(mix)) {
    for (const name of names.split(',').map((part) => part.trim())) {
      for (const index of layersOf(name, groups, layerCount)) prompts.set(index, prompt);
    }
  }
  return prompts;
}

function layersOf(
  name: string,
  groups: Readonly<Record<LayerGroup, readonly number[]>>,
  layerCount: number,
): readonly number[] {
  if (Object.hasOwn(groups, name)) return groups[name as LayerGroup];
  const range = /^(\d+)(?:\s*-\s*(\d+))?$/.exec(name);
  if (range === null) {
    const nearest = nearestName(name, Object.keys(groups));
    throw new UsageError(
      `style mix: expected coarse, middle, fine, an index or a range, got "${excerpt(name)}"${nearest === null ? '' : `; did you mean "${nearest}"?`}`,
    );
  }
  const [from, to] = [Number(range[1]), Number(range[2] ?? range[1])];
  if (from > to || to >= layerCount) {
    throw new UsageError(`style mix: expected layers 0 … ${layerCount - 1}, got "${excerpt(name)}"`);
  }
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}
