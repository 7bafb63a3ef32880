/** Concept files made up for one test. */
import { float32Tensor, type RawTensor } from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { scratch } from '../support/scratch.ts';

export { scratch };

/** A float32 tensor that counts 1, 2, 3 … unless `data` is given. */
export function tensor(name: string, shape: readonly number[], data?: readonly number[]): RawTensor {
  const size = shape.reduce((product, length) => product * length, 1);
  return float32Tensor(name, shape, Float32Array.from(data ?? Array.from({ length: size }, (_, i) => i + 1)));
}

/** Write tensors to a safetensors file of its own. */
export async function tensorFile(
  tensors: readonly RawTensor[],
  metadata: Record<string, string> = {},
): Promise<string> {
  const file = scratch('concept.safetensors');
  await writeSafetensors(file, tensors, metadata);
  return file;
}
