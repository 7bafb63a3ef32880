/**
 * The network that a PEFT adapter is of. Its names do not say: the text encoders of a family call their layers alike. The folder
 * tells, or the class of the base in its configuration, or sizes that one of them alone has.
 */
import type { TensorFile } from '../../formats/tensor-file.ts';
import * as path from '../../io/platform/paths.ts';
import { ADAPTER_FAMILIES } from '../../models/families/families.ts';
import { publishedLayers } from '../../models/families/known-layers.ts';
import { layerId } from '../../models/families/layer-table.ts';
import type { AdapterComponent } from '../adapter.ts';
import { parseAdapterName } from './names.ts';

const folders: readonly string[] = ['unet', 'text_encoder', 'text_encoder_2'] satisfies AdapterComponent[];

/** @returns `null` where names alone say it, or nothing does */
export function networkOfPeft(
  file: TensorFile,
  { auto_mapping: mapping }: Readonly<Record<string, unknown>>,
): AdapterComponent | null {
  const folder = path.basename(path.dirname(file.path));
  if (folders.includes(folder)) return folder as AdapterComponent;
  const base = (mapping as { base_model_class?: unknown } | null | undefined)?.base_model_class;
  return base === 'CLIPTextModelWithProjection' || hasSizesOfSecond(file) ? 'text_encoder_2' : null;
}

/** Whether a layer has as many outputs as the second text encoder's, and not as the first one's. */
function hasSizesOfSecond({ tensors }: TensorFile): boolean {
  return ADAPTER_FAMILIES.some((family) => {
    const table = publishedLayers(family);
    return [...tensors.values()].some(({ name, shape }) => {
      const parsed = parseAdapterName(name, { architecture: family.name });
      if (parsed?.component !== 'text_encoder' || parsed.part !== 'up') return false;
      const second = table.get(layerId('text_encoder_2', parsed.layerName));
      const first = table.get(layerId('text_encoder', parsed.layerName));
      return second !== undefined && shape[0] === second.m && shape[0] !== first?.m;
    });
  });
}
