/** One interface over every weight format. */
import type { RawTensor } from './raw-tensor.ts';
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
