/** Opening weight files of every format. What a file is, its content decides, not its name. */

import { FormatError } from '../errors.ts';
import { exists } from '../io/file-info.ts';
import { locateFile } from '../io/file-range.ts';
import * as path from '../io/platform/paths.ts';
import { detectFileKind } from './file-kind.ts';
import { readSafetensors } from './safetensors.ts';
import { openShards } from './sharded.ts';
import type { TensorFile } from './tensor-file.ts';
import { readTorchLegacy } from './torch-legacy.ts';
import { readTorchZip } from './torch-zip.ts';

const INDEX_NAME = /\.index(\.fp16)?\.json$/;

/**
 * Open a weight file: safetensors, torch (zip, legacy), or the `.index.json` of a sharded one. Reads headers only; the tensors stay on disk.
 * @param file path; errors quote it as given
 * @throws {FormatError} if it is missing, unsafe, damaged, or no weight file
 */
export async function openTensorFile(file: string): Promise<TensorFile> {
  const source = locateFile(file);
  const kind = detectFileKind(file, source);
  switch (kind) {
    case 'safetensors':
      return readSafetensors(file, source);
    case 'zip':
      return readTorchZip(file, source);
    case 'torch-legacy':
      return readTorchLegacy(file, source);
    case 'json':
      if (INDEX_NAME.test(file)) return openShards(file, openTensorFile);
      throw new FormatError(file, 'expected a weight file (safetensors, torch), got JSON text');
    case 'other':
      // Its own reader says best what is wrong with it.
      if (file.endsWith('.safetensors')) return readSafetensors(file, source);
      throw new FormatError(
        file,
        'expected a weight file (safetensors, torch zip or legacy torch), got unknown content',
      );
  }
}

/** Endings of a stem's weight file, the preferred first. */
const ENDINGS = [
  '.safetensors',
  '.safetensors.index.json',
  '.fp16.safetensors',
  '.safetensors.index.fp16.json',
  '.bin',
  '.bin.index.json',
  '.fp16.bin',
] as const;

/**
 * Open the weights of a model folder, whole or in shards.
 * @param folder e.g. `sd15/unet`
 * @param stem   `diffusion_pytorch_model`, `model` or `pytorch_model`; several are tried in order
 * @throws {FormatError} if none of the usual names is there; the message lists what was looked for
 */
export async function openShardedOrSingle(folder: string, ...stems: readonly string[]): Promise<TensorFile> {
  const file = shardedOrSingle(folder, ...stems);
  if (file !== null) return openTensorFile(file);
  if (!exists(folder)) throw new FormatError(folder, 'expected a model folder, got nothing; check the path');
  const looked = stems.map((stem) => `${stem}.safetensors`).join(', ');
  throw new FormatError(
    folder,
    `expected ${looked} (or .fp16, .bin, or shards with an index), got none of them`,
  );
}

/** The file that `openShardedOrSingle` opens; `null` if there is none. */
export function shardedOrSingle(folder: string, ...stems: readonly string[]): string | null {
  const files = stems.flatMap((stem) => ENDINGS.map((ending) => path.join(folder, stem + ending)));
  return files.find((file) => exists(file)) ?? null;
}
