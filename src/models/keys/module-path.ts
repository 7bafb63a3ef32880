/**
 * Layers that a LoRA can train, by diffusers' module paths: what exists in a Stable Diffusion 1.x UNet and its text
 * encoder, as templates in which `#` stands for an index. Checkpoint-specific names are the other files' business.
 */

/** Which network a layer belongs to, named as in a diffusers folder. */
export type Component = 'unet' | 'text_encoder';

/** One linear or convolution layer. */
export interface ModulePath {
  readonly component: Component;
  /** Dotted diffusers path without `.weight`; text encoder paths always start with `text_model.`. */
  readonly layerName: string;
}

/** What one tensor of a LoRA file is to its layer. */
export type LoraPart = 'up' | 'down' | 'alpha';

/** A LoRA tensor's name, understood. */
export interface LoraKey extends ModulePath {
  readonly part: LoraPart;
}

const attention = ['to_q', 'to_k', 'to_v', 'to_out.0'];
const transformer = [
  'proj_in',
  'proj_out',
  ...['attn1', 'attn2'].flatMap((name) =>
    attention.map((linear) => `transformer_blocks.#.${name}.${linear}`),
  ),
  'transformer_blocks.#.ff.net.0.proj',
  'transformer_blocks.#.ff.net.2',
];
const resnet = ['conv1', 'conv2', 'time_emb_proj', 'conv_shortcut'];
const block = [
  ...transformer.map((layer) => `attentions.#.${layer}`),
  ...resnet.map((layer) => `resnets.#.${layer}`),
];

/** Every linear and convolution layer of a network of the SD 1.x kind; `#` stands for a number. */
export const layerTemplates: Readonly<Record<Component, readonly string[]>> = {
  unet: [
    'conv_in',
    'conv_out',
    'time_embedding.linear_1',
    'time_embedding.linear_2',
    ...block.map((layer) => `down_blocks.#.${layer}`),
    'down_blocks.#.downsamplers.0.conv',
    ...block.map((layer) => `mid_block.${layer}`),
    ...block.map((layer) => `up_blocks.#.${layer}`),
    'up_blocks.#.upsamplers.0.conv',
  ],
  text_encoder: ['q_proj', 'k_proj', 'v_proj', 'out_proj']
    .map((linear) => `self_attn.${linear}`)
    .concat('mlp.fc1', 'mlp.fc2')
    .map((layer) => `text_model.encoder.layers.#.${layer}`),
};

const known: Readonly<Record<Component, ReadonlySet<string>>> = {
  unet: new Set(layerTemplates.unet),
  text_encoder: new Set(layerTemplates.text_encoder),
};

/** The template of a path: its numbers as `#`, save those that are part of a fixed name (`to_out.0`, `ff.net.2`). */
function templateOf(layerName: string): string {
  return layerName.replace(/(?<=(?:blocks|attentions|resnets|layers)\.)(?:0|[1-9]\d{0,3})(?=\.|$)/g, '#');
}

/** Whether a network of the SD 1.x kind can have this layer (indices are not checked against a particular one). */
export function isKnownLayer({ component, layerName }: ModulePath): boolean {
  return !layerName.includes('#') && known[component].has(templateOf(layerName));
}

/** Text encoder path with the `text_model.` level that transformers 5 drops in memory and files keep. */
export function withTextModel(layerName: string): string {
  return layerName.startsWith('text_model.') ? layerName : `text_model.${layerName}`;
}

/**
 * The module of a dotted path that may or may not say its component: `unet.` and `text_encoder.` prefixes are taken
 * off, otherwise the first name decides.
 * @returns `null` if the path is of neither network
 */
export function modulePath(path: string): ModulePath | null {
  const prefix = /^(unet|text_encoder)\.(.+)$/.exec(path);
  if (prefix !== null) {
    const component = prefix[1] as Component;
    return { component, layerName: component === 'unet' ? prefix[2]! : withTextModel(prefix[2]!) };
  }
  if (/^(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding)(\.|$)/.test(path)) {
    return { component: 'unet', layerName: path };
  }
  if (/^(text_model|encoder\.layers)\./.test(path)) {
    return { component: 'text_encoder', layerName: withTextModel(path) };
  }
  return null;
}

/** One name per module, for maps. */
export function moduleId({ component, layerName }: ModulePath): string {
  return `${component}:${layerName}`;
}
