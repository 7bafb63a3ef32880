/**
 * Every layer that a LoRA can train in Stable Diffusion 1.x and SDXL, and the names that files in the original
 * (LDM/SGM) block numbering give them: sd-scripts writes SDXL that way, some LyCORIS tools SD 1.x too.
 */
import { ldmUnetNames, sd1UnetStructure, type UnetStructure } from './ldm.ts';
import { type Component, layerTemplates, type ModulePath, withTextModel } from './module-path.ts';

export type Architecture = 'sd1' | 'sdxl';

/** Networks that an adapter can change; SDXL has two text encoders. */
export type AdapterComponent = Component | 'text_encoder_2';

/** A layer of any supported architecture. */
export interface AdapterModule {
  readonly component: AdapterComponent;
  /** Dotted diffusers path without `.weight`; text encoder paths start with `text_model.`. */
  readonly layerName: string;
}

/** One name per layer, for maps. */
export function adapterModuleId({ component, layerName }: AdapterModule): string {
  return `${component}:${layerName}`;
}

/** SDXL's UNet: three blocks, attention in the lower two. */
export const sdxlUnetStructure: UnetStructure = {
  layersPerBlock: 2,
  downAttention: [false, true, true],
  upAttention: [true, true, false],
};

interface Layout {
  readonly unet: UnetStructure;
  /** Transformer blocks per attention, by down block; up blocks mirror it. */
  readonly depths: readonly number[];
  readonly midDepth: number;
  readonly textLayers: Readonly<Partial<Record<AdapterComponent, number>>>;
}

const layouts: Readonly<Record<Architecture, Layout>> = {
  sd1: {
    unet: sd1UnetStructure,
    depths: [1, 1, 1, 0],
    midDepth: 1,
    textLayers: { text_encoder: 12 },
  },
  sdxl: {
    unet: sdxlUnetStructure,
    depths: [0, 2, 10],
    midDepth: 10,
    textLayers: { text_encoder: 12, text_encoder_2: 32 },
  },
};

/** Components of an architecture, in the order in which files list them. */
export function componentsOf(architecture: Architecture): readonly AdapterComponent[] {
  return architecture === 'sd1' ? ['text_encoder', 'unet'] : ['text_encoder', 'text_encoder_2', 'unet'];
}

function expand(template: string, limits: Readonly<Record<string, number>>): string[] {
  const at = template.indexOf('#');
  if (at < 0) return [template];
  const level = /(\w+)\.$/.exec(template.slice(0, at))![1]!;
  return Array.from({ length: limits[level] ?? 0 }, (_, i) =>
    expand(template.slice(0, at) + String(i) + template.slice(at + 1), limits),
  ).flat();
}

/** Whether the UNet has the block, resnet, attention and transformer block that a path speaks of. */
function exists(layerName: string, { unet, depths, midDepth }: Layout): boolean {
  const match =
    /^(down|mid|up)_blocks?(?:\.(\d+))?\.(attentions|resnets|downsamplers|upsamplers)\.(\d+)(?:\.transformer_blocks\.(\d+))?/.exec(
      layerName,
    );
  if (match === null) return true;
  const [, part, block = '0', kind, index, transformer = '0'] = match;
  const [i, j, t] = [Number(block), Number(index), Number(transformer)];
  const last = depths.length - 1;
  if (kind === 'downsamplers' || kind === 'upsamplers') return i < last;
  if (part === 'mid') return kind === 'resnets' ? j < 2 : j < 1 && t < midDepth;
  if (i > last) return false;
  const depth = part === 'down' ? depths[i]! : depths[last - i]!;
  const count = unet.layersPerBlock + (part === 'up' ? 1 : 0);
  return j < count && (kind === 'resnets' || t < depth);
}

const cache = new Map<Architecture, readonly AdapterModule[]>();

/** All layers, text encoders first. Skip convolutions that a resnet lacks are included: names do not tell. */
export function modulesOf(architecture: Architecture): readonly AdapterModule[] {
  const cached = cache.get(architecture);
  if (cached !== undefined) return cached;
  const layout = layouts[architecture];
  const limits = { down_blocks: 4, up_blocks: 4, attentions: 3, resnets: 3, transformer_blocks: 10 };
  const text = Object.entries(layout.textLayers).flatMap(([component, layers]) =>
    layerTemplates.text_encoder
      .flatMap((template) => expand(template, { layers }))
      .map((layerName) => ({ component: component as AdapterComponent, layerName })),
  );
  const unet = layerTemplates.unet
    .flatMap((template) => expand(template, limits))
    .filter((layerName) => exists(layerName, layout))
    .map((layerName) => ({ component: 'unet' as const, layerName }));
  const all = [...text, ...unet];
  cache.set(architecture, all);
  return all;
}

const prefixes: Readonly<Record<Architecture, Readonly<Partial<Record<AdapterComponent, string>>>>> = {
  sd1: { unet: 'lora_unet_', text_encoder: 'lora_te_' },
  sdxl: { unet: 'lora_unet_', text_encoder: 'lora_te1_', text_encoder_2: 'lora_te2_' },
};

const ldmPrefix = 'model.diffusion_model.';

/**
 * kohya name in the original block numbering, e.g. `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q`; text
 * encoders are called as always. `null` for a layer that the architecture lacks.
 */
export function ldmKohyaName(architecture: Architecture, module: AdapterModule): string | null {
  const prefix = prefixes[architecture][module.component];
  if (prefix === undefined) return null;
  if (module.component !== 'unet') return prefix + module.layerName.replaceAll('.', '_');
  const name = ldmUnetNames(layouts[architecture].unet).toLdm(module.layerName);
  return name === null ? null : prefix + name.slice(ldmPrefix.length).replaceAll('.', '_');
}

/** kohya name over the diffusers path, e.g. `lora_unet_down_blocks_1_attentions_0_…`. `null` as above. */
export function diffusersKohyaName(architecture: Architecture, module: AdapterModule): string | null {
  const prefix = prefixes[architecture][module.component];
  return prefix === undefined ? null : prefix + module.layerName.replaceAll('.', '_');
}

const tables = new Map<Architecture, ReadonlyMap<string, AdapterModule>>();

/** Both spellings of every layer, to the layer. */
export function kohyaTable(architecture: Architecture): ReadonlyMap<string, AdapterModule> {
  const cached = tables.get(architecture);
  if (cached !== undefined) return cached;
  const names = ldmUnetNames(layouts[architecture].unet);
  const table = new Map<string, AdapterModule>();
  for (const module of modulesOf(architecture)) {
    const prefix = prefixes[architecture][module.component]!;
    table.set(prefix + module.layerName.replaceAll('.', '_'), module);
    const ldm = module.component === 'unet' ? names.toLdm(module.layerName) : null;
    if (ldm !== null) table.set(prefix + ldm.slice(ldmPrefix.length).replaceAll('.', '_'), module);
  }
  tables.set(architecture, table);
  return table;
}

/** A dotted path with its component in front, `text_encoder_2.…` included. `null` if it is of no network. */
export function adapterModulePath(path: string): AdapterModule | null {
  const match = /^(unet|text_encoder|text_encoder_2)\.(.+)$/.exec(path);
  if (match === null) return null;
  const component = match[1] as AdapterComponent;
  return { component, layerName: component === 'unet' ? match[2]! : withTextModel(match[2]!) };
}

/** A layer that the networks of an architecture can have, whatever their depth: SD 1.x paths also serve miniatures. */
export function isPlainSd1(module: AdapterModule): module is ModulePath {
  return module.component !== 'text_encoder_2';
}

/**
 * Kernel of a layer by its name: 3 × 3 for the resnets' and samplers' convolutions, 1 × 1 where the architecture has a
 * convolution in place of a linear layer, `null` for linear layers. Files with flattened factors do not say it.
 */
export function kernelOfLayer(
  architecture: Architecture,
  { component, layerName }: AdapterModule,
): readonly [height: number, width: number] | null {
  if (component !== 'unet') return null;
  if (/(^|\.)(conv1|conv2|conv|conv_in|conv_out)$/.test(layerName)) return [3, 3];
  if (layerName.endsWith('.conv_shortcut')) return [1, 1];
  return architecture === 'sd1' && /\.proj_(in|out)$/.test(layerName) ? [1, 1] : null;
}
