/**
 * The one rule about NaN and infinity: whoever reads a weight of a file refuses them, naming the tensor. A training that
 * diverged leaves them, and whatever is made of them is lost.
 */
import { FormatError } from '../errors.ts';
import { dtypeWidth } from '../formats/dtype.ts';
import { areFinite } from '../formats/finite.ts';
import { type RawTensor, readBytes, readFloat64 } from '../formats/raw-tensor.ts';
import type { Pace } from '../pace.ts';

/** Where a tensor lies, for messages. */
const fileOf = ({ storage }: RawTensor): string => storage.range?.file ?? 'in memory';

function notFinite(tensor: RawTensor, got: string): FormatError {
  const { name } = tensor;
  return new FormatError(fileOf(tensor), `${name}: expected finite numbers, got ${got}; training diverged?`, {
    tensor: name,
  });
}

/** A tensor's numbers. @throws {FormatError} if one is not finite, naming the tensor */
export function readFinite(tensor: RawTensor): Float64Array {
  const values = readFloat64(tensor);
  // 0 · value is 0 for finite numbers only.
  let probe = 0;
  for (let i = 0; i < values.length; i++) probe += 0 * values[i]!;
  if (probe !== 0) throw notFinite(tensor, String(values.find((value) => !Number.isFinite(value))));
  return values;
}

/** Whether a tensor's numbers are all finite. */
export function holdsFinite(tensor: RawTensor): boolean {
  const bytes = readBytes(tensor);
  const aligned = bytes.byteOffset % Math.max(1, dtypeWidth(tensor.dtype)) === 0 ? bytes : bytes.slice();
  return areFinite(aligned, tensor.dtype);
}

/**
 * Look at tensors that are carried as they stand.
 * @param pace between the tensors
 * @throws {FormatError} naming the first that has a number which is not finite
 */
export async function refuseNonFinite(tensors: Iterable<RawTensor>, pace: Pace): Promise<void> {
  for (const tensor of tensors) {
    if (!holdsFinite(tensor)) throw notFinite(tensor, 'NaN or infinity');
    await pace.turn();
  }
}
