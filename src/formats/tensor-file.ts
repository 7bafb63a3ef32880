/**
 * One interface over every weight format. What a file is, its content decides, not its name.
 */
import { FormatError } from '../errors.ts';
import { locateFile } from './byte-reader.ts';
import { detectFileKind } from './file-kind.ts';
import type { RawTensor } from './raw-tensor.ts';
import { readSafetensors } from './safetensors.ts';
import type { TorchValue } from './torch-value.ts';

export type TensorFileFormat = 'safetensors' | 'torch-zip' | 'torch-legacy' | 'sharded';

export interface TensorFile {
  /** Absolute path; of the index, where there are several files. */
  readonly path: string;
  readonly format: TensorFileFormat;
  /** Of all files together. */
  readonly sizeBytes: number;
  /** By name, in file order; for torch files the dictionary keys joined by dots. */
  readonly tensors: ReadonlyMap<string, RawTensor>;
  /** `__metadata__` of safetensors; empty for torch files. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Torch files: the whole content as plain data. `null` for safetensors. */
  readonly root: TorchValue | null;
}

/**
 * Open a weight file: safetensors or torch (zip, legacy). Reads headers only; the tensors stay on disk.
 * @param file path; errors quote it as given
 * @throws {FormatError} if it is missing, unsafe, damaged, or no weight file
 */
export async function openTensorFile(file: string): Promise<TensorFile> {
  const source = locateFile(file);
  const kind = detectFileKind(file, source);
  if (kind === 'safetensors') return readSafetensors(file, source);
  throw new FormatError(file, 'expected a weight file (safetensors), got something else');
}
