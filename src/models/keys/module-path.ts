/** Dotted module paths in diffusers' names, which every other scheme is translated to and from. */

/** Which network a layer belongs to, named as in a diffusers folder. */
export type Component = 'unet' | 'text_encoder' | 'text_encoder_2';

/** One linear or convolution layer. */
export interface ModulePath {
  readonly component: Component;
  /** Dotted diffusers path without `.weight`; text encoder paths always start with `text_model.`. */
  readonly layerName: string;
}

/**
 * Text encoder path with the `text_model.` level that transformers 5 drops in memory and files keep. The projection lies
 * beside that level.
 */
export function withTextModel(layerName: string): string {
  return /^text_(model\.|projection(\.|$))/.test(layerName) ? layerName : `text_model.${layerName}`;
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
  if (/^(down_blocks|mid_block|up_blocks|conv_in|conv_out|(time|add|class)_embedding)(\.|$)/.test(path)) {
    return { component: 'unet', layerName: path };
  }
  if (/^(text_model\.|encoder\.layers\.|text_projection$)/.test(path)) {
    return { component: 'text_encoder', layerName: withTextModel(path) };
  }
  return null;
}

/** One name per module, for maps. */
export function moduleId({ component, layerName }: ModulePath): string {
  return `${component}:${layerName}`;
}
