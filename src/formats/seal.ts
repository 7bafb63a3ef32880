/** One hash of a header and of the tensors behind it: whether a file is still what was written, to the last bit. */
import { sha256 } from '../io/platform/sha256.ts';
import { type RawTensor, readBytes } from './raw-tensor.ts';

/** sha256, lower-case hex. The order of the tensors does not matter; that of the header's fields does. */
export function sealOf(header: unknown, tensors: Iterable<RawTensor>): string {
  const hash = sha256().update(JSON.stringify(header));
  for (const tensor of [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    hash.update(`\n${tensor.name} ${tensor.dtype} ${tensor.shape.join()}\n`).update(readBytes(tensor));
  }
  return hash.digest('hex');
}
