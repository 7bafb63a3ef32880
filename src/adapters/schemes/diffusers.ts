/**
 * LoRA files in diffusers' spellings. Newer ones say their scaling in the header's `lora_adapter_metadata`; where
 * neither that nor an alpha is stored, diffusers applies up · down, and so do we.
 */
import { FormatError } from '../../errors.ts';
import { parseJson } from '../../formats/strict-json.ts';
import type { TensorFile } from '../../formats/tensor-file.ts';
import { type PeftScaling, peftScaling } from './peft-names.ts';

/**
 * Scaling per component from `lora_adapter_metadata`: a JSON object with keys such as `unet.lora_alpha`.
 * @param options.dora accept DoRA, whose magnitudes the caller then applies
 */
export function adapterScalings(
  file: TensorFile,
  options: { readonly dora?: boolean } = {},
): Map<string, PeftScaling> {
  const text = file.metadata.get('lora_adapter_metadata');
  if (text === undefined) return new Map();
  const config = parseJson(text, `${file.path}: lora_adapter_metadata`);
  if (typeof config !== 'object' || config === null) {
    throw new FormatError(file.path, 'lora_adapter_metadata: expected an object');
  }
  const byComponent = new Map<string, Map<string, unknown>>();
  for (const [key, value] of Object.entries(config)) {
    const dot = key.indexOf('.');
    const component = key.slice(0, Math.max(dot, 0));
    const own = byComponent.get(component) ?? new Map<string, unknown>();
    own.set(key.slice(dot + 1), value);
    byComponent.set(component, own);
  }
  return new Map(
    [...byComponent].map(([component, own]) => [
      component,
      peftScaling(
        `${file.path} (lora_adapter_metadata, ${component || 'no component'})`,
        Object.fromEntries(own),
        options,
      ),
    ]),
  );
}
