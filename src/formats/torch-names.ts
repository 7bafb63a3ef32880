/**
 * The tensors of a torch file by name: the dictionary keys and list indices that lead to them, joined by dots. A key
 * of a megabyte may lead to every tensor and a container may stand in many places, so names and tensors together are
 * held against the file's size before they are made.
 */

import { FormatError } from '../errors.ts';
import { latin1Text } from '../io/bytes.ts';
import { dtypeWidth } from './dtype.ts';
import { elementCount, MAX_NAME_CHARACTERS, type RawTensor } from './raw-tensor.ts';
import type { TensorStorage } from './tensor-storage.ts';
import { isTagged, isTensor, type TorchValue } from './torch-value.ts';

/** All names of a file together: 4 Mi characters, and 8 for each of its bytes. A tensor takes some 100 of them. */
const FREE_NAME_CHARACTERS = 1 << 22;
const NAME_CHARACTERS_PER_BYTE = 8;

/** All tensors of a file, written out: 256 MiB, and 8 times the storages that they are views of. */
const FREE_TENSOR_BYTES = 1 << 28;
const TENSOR_BYTES_PER_BYTE = 8;

/**
 * The tensors of a value in file order. A bare tensor is called by the empty name.
 * @param root      as `plainTree` returns it
 * @param fileBytes size of the file
 * @throws {FormatError} if two tensors get the same name (`{'a.b': x, 'a': {'b': y}}`), or if names or tensors are
 *   out of proportion to the file
 */
export function flattenTensors(file: string, root: TorchValue, fileBytes: number): Map<string, RawTensor> {
  const tensors = new Map<string, RawTensor>();
  const views = new ViewCost(file);
  /** Keys on the way to the present value; printed once a tensor is found below them. */
  const way: { readonly key: TorchValue; text: string | null }[] = [];
  const maxCharacters = FREE_NAME_CHARACTERS + NAME_CHARACTERS_PER_BYTE * fileBytes;
  let characters = 0;

  const nameHere = (): string => {
    let length = Math.max(0, way.length - 1);
    for (const step of way) {
      step.text ??= keyName(step.key, MAX_NAME_CHARACTERS);
      length += step.text?.length ?? MAX_NAME_CHARACTERS + 1;
    }
    if (length > MAX_NAME_CHARACTERS) throw tooLong(file);
    characters += length;
    if (characters > maxCharacters) {
      throw new FormatError(
        file,
        `expected tensor names of at most ${maxCharacters} characters together in a file of ${fileBytes} bytes, got ${characters} or more`,
      );
    }
    return way.map((step) => step.text).join('.');
  };
  const visit = (value: TorchValue) => {
    if (isTensor(value)) {
      const name = nameHere();
      if (tensors.has(name)) {
        throw new FormatError(file, `two tensors get the same name "${name}"`, { tensor: name });
      }
      views.add(value.tensor);
      tensors.set(name, { ...value.tensor, name });
    } else if (value instanceof Map) {
      for (const [key, item] of value) visitAt(key, item);
    } else if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) visitAt(index, item);
    } else if (isTagged(value) && (value.kind === 'tuple' || value.kind === 'set')) {
      for (const [index, item] of value.items.entries()) visitAt(index, item);
    }
  };
  const visitAt = (key: TorchValue, item: TorchValue) => {
    if (typeof item !== 'object' || item === null) return;
    way.push({ key, text: null });
    visit(item);
    way.pop();
  };
  visit(root);
  return tensors;
}

/** What all tensors take once they are written out, against the storages that they view. */
class ViewCost {
  readonly #file: string;
  readonly #storages = new Set<TensorStorage>();
  #storageBytes = 0;
  #tensorBytes = 0;

  constructor(file: string) {
    this.#file = file;
  }

  add({ storage, shape, dtype }: RawTensor): void {
    if (!this.#storages.has(storage)) {
      this.#storages.add(storage);
      this.#storageBytes += storage.sizeBytes;
    }
    this.#tensorBytes += elementCount(shape) * dtypeWidth(dtype);
    const allowed = FREE_TENSOR_BYTES + TENSOR_BYTES_PER_BYTE * this.#storageBytes;
    if (this.#tensorBytes > allowed) {
      throw new FormatError(
        this.#file,
        `expected tensors of at most ${allowed} bytes on storages of ${this.#storageBytes}, got ${this.#tensorBytes} or more; the tensors repeat their storages`,
      );
    }
  }
}

function tooLong(file: string): FormatError {
  return new FormatError(
    file,
    `expected tensor names of at most ${MAX_NAME_CHARACTERS} characters, got a longer one`,
  );
}

/**
 * A dictionary key as a part of a dotted name, as Python prints it; null if that takes more than `room` characters.
 * Tuples of shared tuples are short in the file and endless in print: it stops as soon as it is too much.
 */
export function keyName(key: TorchValue, room: number): string | null {
  if (key === null) return 'None';
  if (key === true) return 'True';
  if (key === false) return 'False';
  if (typeof key === 'string') return key.length > room ? null : key;
  if (key instanceof Uint8Array) {
    return key.length > room ? null : `b'${latin1Text(key)}'`;
  }
  if (!isTagged(key)) return String(key);
  if (key.kind !== 'tuple') return key.kind === 'dtype' || key.kind === 'reference' ? key.name : key.kind;
  const parts: string[] = [];
  let left = room - 2;
  for (const item of key.items) {
    const part = keyName(item, left);
    if (part === null) return null;
    left -= part.length + 2;
    if (left < 0) return null;
    parts.push(part);
  }
  return `(${parts.join(', ')})`;
}
