/**
 * Which layers there can be at all, in any family at any depth: the layers of the published configurations with their
 * numbers left open. Readers of files that know no base go by it.
 */
import { textLayers } from '../clip/changeable-layers.ts';
import { unetLayers } from '../unet/changeable-layers.ts';
import { ADAPTER_FAMILIES, DEFAULT_FAMILY } from './families.ts';
import type { AdapterComponent, AdapterFamily } from './family.ts';
import { type ComponentId, type Layer, LayerTable } from './layer-table.ts';

/** The path with `#` for its numbers, save those that are part of a fixed name (`to_out.0`, `ff.net.2`). */
export function templateOf(layerName: string): string {
  return layerName.replace(/(?<=(?:blocks|attentions|resnets|layers)\.)(?:0|[1-9]\d{0,3})(?=\.|$)/g, '#');
}

const tables = new Map<AdapterFamily, LayerTable>();

/** The layers of a family's published configuration, text encoders first. */
export function publishedLayers(family: AdapterFamily): LayerTable {
  let table = tables.get(family);
  if (table === undefined) {
    const { textEncoders, unet } = family.adapters;
    const text = Object.entries(textEncoders).flatMap(([component, config]) => textLayers(config, component));
    table = new LayerTable([...text, ...unetLayers(unet)]);
    tables.set(family, table);
  }
  return table;
}

const networkOf = (component: ComponentId): 'unet' | 'text' => (component === 'unet' ? 'unet' : 'text');

let templates: Readonly<Record<'unet' | 'text', ReadonlySet<string>>> | null = null;

/** Every template of a network, in the order of the default family's layers. */
export function layerTemplates(component: ComponentId): ReadonlySet<string> {
  if (templates === null) {
    const all = { unet: new Set<string>(), text: new Set<string>() };
    for (const layer of ADAPTER_FAMILIES.flatMap((family) => [...publishedLayers(family)])) {
      all[networkOf(layer.component)].add(templateOf(layer.layerName));
    }
    templates = all;
  }
  return templates[networkOf(component)];
}

/** Whether a network of any family can have this layer (indices are not checked against a particular one). */
export function isKnownLayer({
  component,
  layerName,
}: {
  readonly component: AdapterComponent;
  readonly layerName: string;
}): boolean {
  return !layerName.includes('#') && layerTemplates(component).has(templateOf(layerName));
}

const kernels = new Map<AdapterFamily, ReadonlyMap<string, Layer['kernel']>>();

/** Kernel of a layer by its name, `null` for linear layers and unknown ones. */
export function kernelByName(
  family: AdapterFamily,
  component: ComponentId,
  layerName: string,
): Layer['kernel'] {
  let own = kernels.get(family);
  if (own === undefined) {
    own = new Map(
      [...publishedLayers(family)].map((layer) => [
        `${networkOf(layer.component)}:${templateOf(layer.layerName)}`,
        layer.kernel,
      ]),
    );
    kernels.set(family, own);
  }
  return own.get(`${networkOf(component)}:${templateOf(layerName)}`) ?? null;
}

/** Attentions to the text in the default family's published model: so many vectors of a word are one for each. */
export function usualContextCount(): number {
  return publishedLayers(DEFAULT_FAMILY).contextCount;
}
