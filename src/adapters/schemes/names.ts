/** What one tensor name of an adapter file says: layer and part, in whatever spelling each of them is. */
import type { AdapterModule } from '../../models/families/adapter-layers.ts';
import { layerOfName, type NameContext } from './layer-names.ts';
import { type AdapterPart, splitName } from './suffixes.ts';

export interface AdapterName extends AdapterModule {
  readonly part: AdapterPart;
}

/** @returns `null` for a name that is none, or of a layer that the architecture lacks */
export function parseAdapterName(name: string, context: NameContext): AdapterName | null {
  const split = splitName(name);
  const module = split === null ? null : layerOfName(split.layer, context);
  return module === null ? null : { ...module, part: split!.part };
}
