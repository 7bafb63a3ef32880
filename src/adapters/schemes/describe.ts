/** Header entries by which model browsers know a file. */

import { layoutOf } from '../../models/families/families.ts';
import type { AdapterLayer } from '../adapter.ts';
import { modelspecMetadata } from '../metadata.ts';
import type { OutputAdapter } from './scheme.ts';

export function ranksOf(layers: readonly AdapterLayer[]): number[] {
  return layers.flatMap(({ rank }) => (rank === null ? [] : [rank]));
}

export function describe({
  title,
  mergedFrom,
  words,
  triggerWords = words.map(({ word }) => word),
  layers,
  architecture,
  metadata,
}: OutputAdapter): Record<string, string> {
  const described = modelspecMetadata({
    title,
    ranks: ranksOf(layers),
    mergedFrom,
    triggerWords,
  });
  const layout = layoutOf(architecture);
  if (layout !== null) return { ...described, ...layout.modelspec, ...metadata };
  // What the inputs say of their base holds for what is made of them; nothing else is known of it.
  const { 'modelspec.architecture': _, 'modelspec.implementation': __, ...rest } = described;
  return { ...rest, ...metadata };
}
