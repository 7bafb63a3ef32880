/**
 * Every layer that a LoRA can train in a family's published model, and the names that files in the original (LDM/SGM)
 * block numbering give them: sd-scripts writes SDXL that way, some LyCORIS tools SD 1.x too.
 */
import { ldmStructureOf, ldmUnetNames, type NameMap } from '../keys/ldm.ts';
import { withTextModel } from '../keys/module-path.ts';
import { ADAPTER_FAMILIES, adapterFamily, layoutOf, titlesOf } from './families.ts';
import type { AdapterComponent, AdapterModule } from './family.ts';
import { isKnownLayer, kernelByName, publishedLayers } from './known-layers.ts';
import { layerId } from './layer-table.ts';

export type { AdapterComponent, AdapterModule } from './family.ts';

/** Name of a family. */
export type Architecture = string;

/** One name per layer, for maps. */
export function adapterModuleId({ component, layerName }: AdapterModule): string {
  return layerId(component, layerName);
}

/** Components of a family, in the order in which files list them. */
export function componentsOf(family: Architecture): readonly AdapterComponent[] {
  const layout = layoutOf(family);
  if (layout === null) return ['encoder', 'network'];
  const { textEncoders } = layout;
  return [...(Object.keys(textEncoders) as AdapterComponent[]), 'unet'];
}

/** All layers, text encoders first. */
export function modulesOf(family: Architecture): readonly AdapterModule[] {
  return [...publishedLayers(adapterFamily(family))].map(({ component, layerName }) => ({
    component: component as AdapterComponent,
    layerName,
  }));
}

const ldmPrefix = 'model.diffusion_model.';
const ldmNames = new Map<Architecture, NameMap>();

function namesOf(family: Architecture): NameMap {
  let names = ldmNames.get(family);
  if (names === undefined) {
    names = ldmUnetNames(ldmStructureOf(adapterFamily(family).adapters.unet));
    ldmNames.set(family, names);
  }
  return names;
}

/** The UNet's layer of a path in the original numbering, `input_blocks.1.1.proj_in`; `null` if the family lacks it. */
export function layerOfLdmPath(family: Architecture, path: string): AdapterModule | null {
  const layerName = namesOf(family).fromLdm(ldmPrefix + path);
  return layerName === null || !hasLayer(family, { component: 'unet', layerName })
    ? null
    : { component: 'unet', layerName };
}

/** Whether a family's published model has a layer, or one of another depth, but no more levels, may. */
export function hasLayer(family: Architecture, module: AdapterModule): boolean {
  const own = adapterFamily(family);
  if (publishedLayers(own).get(adapterModuleId(module)) !== undefined) return true;
  const { anyDepth, unet } = own.adapters;
  const level = Number(/^(?:down|up)_blocks\.(\d+)\./.exec(module.layerName)?.[1] ?? 0);
  return (
    anyDepth &&
    level < unet.blocks.length &&
    componentsOf(family).includes(module.component) &&
    isKnownLayer(module)
  );
}

/**
 * kohya name in the original block numbering, e.g. `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q`; text
 * encoders are called as always. `null` for a layer that the family lacks.
 */
export function ldmKohyaName(family: Architecture, module: AdapterModule): string | null {
  const prefix = adapterFamily(family).adapters.kohyaPrefixes[module.component];
  if (prefix === undefined) return null;
  if (module.component !== 'unet') return prefix + module.layerName.replaceAll('.', '_');
  const name = namesOf(family).toLdm(module.layerName);
  return name === null ? null : prefix + name.slice(ldmPrefix.length).replaceAll('.', '_');
}

/** kohya name over the diffusers path, e.g. `lora_unet_down_blocks_1_attentions_0_…`. `null` as above. */
export function diffusersKohyaName(family: Architecture, module: AdapterModule): string | null {
  const prefix = adapterFamily(family).adapters.kohyaPrefixes[module.component];
  return prefix === undefined ? null : prefix + module.layerName.replaceAll('.', '_');
}

const tables = new Map<Architecture, ReadonlyMap<string, AdapterModule>>();

/** Both spellings of every layer, to the layer. */
export function kohyaTable(family: Architecture): ReadonlyMap<string, AdapterModule> {
  const cached = tables.get(family);
  if (cached !== undefined) return cached;
  const table = new Map<string, AdapterModule>();
  for (const module of modulesOf(family)) {
    for (const name of [diffusersKohyaName(family, module), ldmKohyaName(family, module)]) {
      if (name !== null) table.set(name, module);
    }
  }
  tables.set(family, table);
  return table;
}

/** A dotted path with its component in front, `text_encoder_2.…` included. `null` if it is of no network. */
export function adapterModulePath(path: string): AdapterModule | null {
  const match = /^(unet|text_encoder|text_encoder_2)\.(.+)$/.exec(path);
  if (match === null) return null;
  const component = match[1] as AdapterComponent;
  return { component, layerName: component === 'unet' ? match[2]! : withTextModel(match[2]!) };
}

const CONCEPT_FILES = { 'ed-lora': 'ED-LoRA', cloneofsimo: 'positional' } as const;

/** Why Mix-of-Show's or cloneofsimo's files cannot hold a layer: they are of some families alone. `null` if they can. */
export function refusedByFamily(
  scheme: keyof typeof CONCEPT_FILES,
  family: Architecture,
  component: AdapterComponent,
): string | null {
  if (layoutOf(family)?.conceptFiles.includes(scheme) && componentsOf(family).includes(component))
    return null;
  const known = ADAPTER_FAMILIES.filter(({ adapters }) => adapters.conceptFiles.includes(scheme));
  return `${CONCEPT_FILES[scheme]} files are for ${titlesOf(known)}`;
}

/**
 * Kernel of a layer by its name: 3 × 3 for the resnets' and samplers' convolutions, 1 × 1 where the family has a
 * convolution in place of a linear layer, `null` for linear layers. Files with flattened factors do not say it.
 */
export function kernelOfLayer(
  family: Architecture,
  { component, layerName }: AdapterModule,
): readonly [height: number, width: number] | null {
  if (layoutOf(family) === null) return null;
  return kernelByName(adapterFamily(family), component, layerName);
}
