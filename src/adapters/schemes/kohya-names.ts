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

interface Pattern {
  readonly parts: readonly string[];
  readonly pattern: RegExp;
}

/** The known layers as patterns over kohya names; a number is where a template has `#`, so no two can match. */
function patternsOf(component: Component): Pattern[] {
  return [...layerTemplates(component)].map((template) => ({
    parts: template.split('#'),
    pattern: new RegExp(`^${template.replaceAll('.', '_').replaceAll('#', '(0|[1-9]\\d{0,3})')}$`),
  }));
}

const patterns: Readonly<Record<Component, readonly Pattern[]>> = {
  unet: patternsOf('unet'),
  text_encoder: patternsOf('text_encoder'),
};

/** Module of a kohya name by the structure of blocks alone, at any depth; `null` if there is no such layer. */
export function moduleOfKohyaName(name: string): ModulePath | null {
  // Files made by diffusers' converter say lora_te1_ for the only text encoder.
  const match = /^lora_(unet|te1?)_(.+)$/.exec(name);
  if (match === null) return null;
  const component: Component = match[1] === 'unet' ? 'unet' : 'text_encoder';
  for (const { parts, pattern } of patterns[component]) {
    const indices = pattern.exec(match[2]!)?.slice(1);
    if (indices === undefined) continue;
    return { component, layerName: parts.map((part, i) => part + (indices[i] ?? '')).join('') };
  }
  return null;
}
