/**
 * Which family an adapter is of. Names and widths prove it for most; where they do not (one text encoder, convolutions
 * alone, the few blocks that two families share), what the header says decides, and nothing may contradict it.
 */
import { FormatError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import { elementCount } from '../formats/raw-tensor.ts';
import type { TensorFile } from '../formats/tensor-file.ts';
import { adapterModuleId, hasLayer } from '../models/families/adapter-layers.ts';
import { ADAPTER_FAMILIES, DEFAULT_FAMILY, hasAdapters } from '../models/families/families.ts';
import type { AdapterComponent, AdapterFamily, Family } from '../models/families/family.ts';
import { publishedLayers } from '../models/families/known-layers.ts';
import { familyOfTitle, provenFamily } from '../models/families/recognise.ts';
import { parseAdapterName } from './schemes/names.ts';

/** Header entries that name the base: sd-scripts', ModelSpec's, and what model sites and other trainers write. */
export const BASE_FIELDS = ['ss_base_model_version', 'modelspec.architecture', 'baseModel'] as const;

/** Entries with a base's own name, which may be any: they count where nothing else tells, and contradict nothing. */
export const NAME_FIELDS = ['base_model', 'base_model_version', 'ss_sd_model_name'] as const;

/** What a header says of the base. */
interface Said {
  readonly field: string;
  readonly text: string;
  readonly family: Family;
}

/** What is known beside the file. */
export interface ToldBeside {
  /** What a configuration beside the weights calls the base; it counts where nothing else tells. */
  readonly base?: string | undefined;
  /** Network of a PEFT adapter. */
  readonly component?: AdapterComponent | null | undefined;
}

/** @throws {FormatError} if the header contradicts itself or the names */
export function familyOfAdapter(file: TensorFile, { base = '', component = null }: ToldBeside = {}): Family {
  const tensors = [...file.tensors.values()];
  const said = saidOf(file);
  const proven = provenFamily(tensors);
  if (said === null) {
    if (proven !== null) return proven;
    const told = familyOfTitle(base);
    if (told !== null && !hasAdapters(told)) return told;
    const names = NAME_FIELDS.map((field) => familyOfTitle(file.metadata.get(field) ?? ''));
    const named = [told, ...names].find((family) => family !== null && hasAdapters(family));
    return bestOwner(file, (named as AdapterFamily | undefined) ?? DEFAULT_FAMILY, component);
  }
  if (proven !== null && proven !== said.family) throw contradiction(file, said, proven);
  if (proven === null && hasAdapters(said.family)) {
    const other = bestOwner(file, said.family, component);
    if (other !== said.family) throw contradiction(file, said, other);
  }
  return said.family;
}

function saidOf(file: TensorFile): Said | null {
  const all = BASE_FIELDS.flatMap((field): Said[] => {
    const text = file.metadata.get(field);
    const family = text === undefined ? null : familyOfTitle(text);
    return family === null ? [] : [{ field, text: text!, family }];
  });
  const [first, ...others] = all;
  const other = others.find(({ family }) => family !== first!.family);
  if (other !== undefined) {
    throw new FormatError(
      file.path,
      `expected one base in its header, got ${shown(first!)} and ${shown(other)}; mend the header`,
    );
  }
  return first ?? null;
}

const shown = ({ field, text, family }: Said): string => `${field} ${excerpt(text)} (${family.title})`;

function contradiction(file: TensorFile, said: Said, named: Family): FormatError {
  return new FormatError(
    file.path,
    `expected layers of ${said.family.title} as its header says (${said.field} ${excerpt(said.text)}), got names or sizes of ${named.title}; one of the two is wrong`,
  );
}

/** The family that owns most names; of those, the one with most sizes; of those, the favourite. */
function bestOwner(
  file: TensorFile,
  favourite: AdapterFamily,
  component: AdapterComponent | null,
): AdapterFamily {
  const order = [favourite, ...ADAPTER_FAMILIES.filter((family) => family !== favourite)];
  let best = favourite;
  let most = [-1, -1];
  for (const family of order) {
    const own = owned(file, family, component);
    if (own[0] > most[0]! || (own[0] === most[0] && own[1] > most[1]!)) [best, most] = [family, own];
  }
  return best;
}

/** How many tensors are of a family's layers, and how many of those have the published model's sizes. */
function owned(
  { tensors }: TensorFile,
  family: AdapterFamily,
  component: AdapterComponent | null,
): [names: number, sizes: number] {
  const table = publishedLayers(family);
  let [names, sizes] = [0, 0];
  for (const { name, shape } of tensors.values()) {
    const parsed = parseAdapterName(name, { architecture: family.name, component });
    if (parsed === null || !hasLayer(family.name, parsed)) continue;
    names++;
    const layer = table.get(adapterModuleId(parsed));
    if (layer === undefined) continue;
    const { part } = parsed;
    if (part === 'up' && shape[0] === layer.m) sizes++;
    if (part === 'down' && elementCount(shape.slice(1)) === layer.n) sizes++;
  }
  return [names, sizes];
}
