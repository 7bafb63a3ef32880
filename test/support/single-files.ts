/** The miniature as an original single file, as other programs write such files: with other names, signs, or parts missing. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import { float32Tensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { goldenSingleFile } from './goldens.ts';

export interface SingleFileChanges {
  /** New name of a tensor; `null` leaves it out. Default: as it is. */
  readonly rename?: (name: string) => string | null;
  /** Names of further tensors of one number. */
  readonly keys?: readonly string[];
  readonly more?: readonly RawTensor[];
  readonly metadata?: Readonly<Record<string, string>>;
}

/** Write it, its folder too. @returns the path */
export async function writeSingleFile(
  file: string,
  { rename = (name) => name, keys = [], more = [], metadata = {} }: SingleFileChanges,
): Promise<string> {
  mkdirSync(path.dirname(file), { recursive: true });
  const { tensors } = await openTensorFile(goldenSingleFile());
  const own = [...tensors].flatMap(([name, tensor]) => {
    const to = rename(name);
    return to === null ? [] : [{ ...tensor, name: to }];
  });
  const signs = keys.map((key) => float32Tensor(key, [1], Float32Array.of(1)));
  await writeSafetensors(file, [...own, ...signs, ...more], metadata);
  return file;
}
