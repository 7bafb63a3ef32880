/** One damaged copy of a file, in the way that its form makes worst. */
import type { Random } from '../random.ts';
import { MAX_INPUT_BYTES, mutateBytes } from './bytes.ts';
import { mutateJson } from './json.ts';
import { mutatePickle } from './pickle.ts';
import { mutatePng } from './png.ts';
import { mutateSafetensors } from './safetensors.ts';
import { mutateText } from './text.ts';
import { mutateYaml } from './yaml.ts';
import { mutateZip } from './zip.ts';

/** How a file is damaged; `fixed` files stay as they are. */
export type Form =
  | 'fixed'
  | 'binary'
  | 'text'
  | 'json'
  | 'yaml'
  | 'safetensors'
  | 'torch-zip'
  | 'torch-legacy'
  | 'torch-pickle'
  | 'png';

/** Magic number, protocol, system, tree, keys: what a legacy torch file holds before its storages. */
const LEGACY_PICKLES = 5;

/** Share of inputs that are damaged byte by byte, whatever their form. */
const BLIND_SHARE = 0.12;

/**
 * @param other a second file of this form, to splice in; null if there is none
 * @param words names, keys and values that belong to this kind of file
 */
export function mutate(
  random: Random,
  form: Form,
  bytes: Uint8Array,
  other: Uint8Array | null,
  words: readonly string[],
): Uint8Array {
  if (form === 'fixed') return bytes;
  if (random.chance(BLIND_SHARE)) return mutateBytes(random, bytes, other);
  const changed = structured(random, form, bytes, other, words).subarray(0, MAX_INPUT_BYTES);
  return random.chance(0.04) ? mutateBytes(random, changed, other) : changed;
}

function structured(
  random: Random,
  form: Exclude<Form, 'fixed'>,
  bytes: Uint8Array,
  other: Uint8Array | null,
  words: readonly string[],
): Uint8Array {
  const text = (): string => Buffer.from(bytes).toString('utf8');
  switch (form) {
    case 'binary':
      return mutateBytes(random, bytes, other);
    case 'text':
      return Buffer.from(mutateText(random, text(), words));
    case 'json':
      return Buffer.from(mutateJson(random, text(), words));
    case 'yaml':
      return Buffer.from(mutateYaml(random, text(), words));
    case 'safetensors':
      return mutateSafetensors(random, bytes, other, words);
    case 'torch-zip':
      return mutateZip(random, bytes);
    case 'torch-pickle':
      return mutatePickle(random, bytes);
    case 'torch-legacy':
      return mutatePickle(random, bytes, LEGACY_PICKLES);
    case 'png':
      return mutatePng(random, bytes, words);
  }
}
