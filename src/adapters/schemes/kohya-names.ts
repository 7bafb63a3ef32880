/**
 * Names of kohya's sd-scripts, which most LoRA files use: `lora_unet_` or `lora_te_`, then the diffusers path with
 * dots as underscores. Paths hold underscores of their own, so the way back goes by a table, never by replacing.
 */
import { layerTemplates } from '../../models/families/known-layers.ts';
import type { ModulePath } from '../../models/keys/module-path.ts';

/** A block's number, where a template has `#`. */
const numbers = /(?<=(?:blocks|attentions|resnets|layers)_)(?:0|[1-9]\d{0,3})(?=_|$)/g;

/** The known layers' templates, by their underscored form. */
function templatesOf(component: 'unet' | 'text_encoder'): ReadonlyMap<string, string> {
  return new Map([...layerTemplates(component)].map((template) => [template.replaceAll('.', '_'), template]));
}

const templates: Readonly<Record<'unet' | 'text_encoder', ReadonlyMap<string, string>>> = {
  unet: templatesOf('unet'),
  text_encoder: templatesOf('text_encoder'),
};

/** Module of a kohya name by the structure of blocks alone, at any depth; `null` if there is no such layer. */
export function moduleOfKohyaName(name: string): ModulePath | null {
  // Files made by diffusers' converter say lora_te1_ for the only text encoder.
  const match = /^lora_(unet|te1?)_([^#]+)$/.exec(name);
  if (match === null) return null;
  const component = match[1] === 'unet' ? 'unet' : 'text_encoder';
  const indices: string[] = [];
  const underscored = match[2]!.replace(numbers, (index) => {
    indices.push(index);
    return '#';
  });
  const template = templates[component].get(underscored);
  return template === undefined
    ? null
    : { component, layerName: template.replace(/#/g, () => indices.shift()!) };
}
