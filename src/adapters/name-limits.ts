/** Names of tensors in concepts and adapters, bounded before anything is made of them: messages and tables quote them. */
import { FormatError } from '../errors.ts';
import { excerpt } from '../formats/excerpt.ts';
import type { TensorFile } from '../formats/tensor-file.ts';

/** Characters at most; the longest name of a layer has about 130. */
const MAX_NAME_LENGTH = 1024;
/** Tensors at most: SDXL has about 1,100 layers, of which the richest kind stores ten parts. */
const MAX_TENSORS = 100_000;

/** @throws {FormatError} if a file has more tensors, or longer names, than any concept or adapter */
export function refuseUnlikelyNames({ path: file, tensors }: TensorFile): void {
  if (tensors.size > MAX_TENSORS) {
    throw new FormatError(file, `expected at most ${MAX_TENSORS} tensors, got ${tensors.size}`);
  }
  for (const name of tensors.keys()) {
    if (name.length > MAX_NAME_LENGTH) {
      throw new FormatError(
        file,
        `expected names of at most ${MAX_NAME_LENGTH} characters, got ${excerpt(name)}`,
      );
    }
  }
}
