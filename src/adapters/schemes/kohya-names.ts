/**
 * Names of kohya's sd-scripts, which most LoRA files use: `lora_unet_` or `lora_te_`, then the diffusers path with
 * dots as underscores. Paths hold underscores of their own, so the way back goes by a table, never by replacing.
 */
import { FormatError } from '../../errors.ts';
import { layerTemplates } from '../../models/families/known-layers.ts';
import { type Component, type ModulePath, moduleId } from '../../models/keys/module-path.ts';
import { partSuffix } from './suffixes.ts';

const prefixes: Readonly<Record<Component, string>> = { unet: 'lora_unet_', text_encoder: 'lora_te_' };

/** `lora_unet_down_blocks_0_…_to_q`, without the tensor's suffix. */
export function kohyaName({ component, layerName }: ModulePath): string {
  return prefixes[component] + layerName.replaceAll('.', '_');
}

/** Full tensor name, e.g. `lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight`. */
export function kohyaKey(module: ModulePath, part: 'up' | 'down' | 'alpha'): string {
  return `${kohyaName(module)}.${partSuffix[part]}`;
}

/** kohya name to module, for the layers of an actual base. @throws {FormatError} if two layers share a name */
export function kohyaNames(file: string, modules: Iterable<ModulePath>): Map<string, ModulePath> {
  const names = new Map<string, ModulePath>();
  for (const module of modules) {
    const name = kohyaName(module);
    const other = names.get(name);
    if (other !== undefined) {
      throw new FormatError(
        file,
        `layers ${moduleId(other)} and ${moduleId(module)} are both "${name}" in kohya's names`,
      );
    }
    names.set(name, module);
  }
  return names;
}

/** A block's number, where a template has `#`. */
const numbers = /(?<=(?:blocks|attentions|resnets|layers)_)(?:0|[1-9]\d{0,3})(?=_|$)/g;

/** The known layers' templates, by their underscored form. */
function templatesOf(component: Component): ReadonlyMap<string, string> {
  return new Map([...layerTemplates(component)].map((template) => [template.replaceAll('.', '_'), template]));
}

const templates: Readonly<Record<Component, ReadonlyMap<string, string>>> = {
  unet: templatesOf('unet'),
  text_encoder: templatesOf('text_encoder'),
};

/** Module of a kohya name by the structure of blocks alone, at any depth; `null` if there is no such layer. */
export function moduleOfKohyaName(name: string): ModulePath | null {
  // Files made by diffusers' converter say lora_te1_ for the only text encoder.
  const match = /^lora_(unet|te1?)_([^#]+)$/.exec(name);
  if (match === null) return null;
  const component: Component = match[1] === 'unet' ? 'unet' : 'text_encoder';
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
