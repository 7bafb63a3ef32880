/**
 * What a torch file can hold, as plain data: containers, scalars and tensors. Dictionaries are `Map`s, so that
 * keys such as `__proto__` or `1` next to `"1"` are just keys.
 */
import { FormatError } from '../errors.ts';
import type { PickleValue } from './pickle-value.ts';
import type { RawTensor } from './raw-tensor.ts';

/**
 * Python value → here: None → null, bool → boolean, int → number (bigint beyond ±(2^53 − 1)), float → number,
 * str → string, bytes and bytearray → Uint8Array, list → array, dict and OrderedDict → Map. The rest is tagged.
 */
export type TorchValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | TorchList
  | TorchDict
  | TorchTagged;

export interface TorchList extends Array<TorchValue> {}

export interface TorchDict extends Map<TorchValue, TorchValue> {}

export type TorchTagged = TorchTuple | TorchSet | TorchSize | TorchDtype | TorchTensor | TorchReference;

export interface TorchTuple {
  readonly kind: 'tuple';
  readonly items: readonly TorchValue[];
}

/** A Python set or frozenset; order as in the file, equal members once. */
export interface TorchSet {
  readonly kind: 'set';
  readonly items: readonly TorchValue[];
}

/** `torch.Size`. */
export interface TorchSize {
  readonly kind: 'size';
  readonly sizes: readonly number[];
}

/** A dtype as a value, e.g. `torch.float16`. */
export interface TorchDtype {
  readonly kind: 'dtype';
  readonly name: string;
}

export interface TorchTensor {
  readonly kind: 'tensor';
  readonly tensor: RawTensor;
  /** Whether it was an `nn.Parameter`. */
  readonly parameter: boolean;
  readonly requiresGrad: boolean;
}

/** The bare name of a class that the file mentions and does not use (Lightning's callbacks as keys); inert. */
export interface TorchReference {
  readonly kind: 'reference';
  readonly name: string;
}

export function isTagged(value: TorchValue): value is TorchTagged {
  return typeof value === 'object' && value !== null && 'kind' in value;
}

export function isTensor(value: TorchValue): value is TorchTensor {
  return isTagged(value) && value.kind === 'tensor';
}

/** Nesting that no real file comes near; Python's own recursion ends at about 1000. */
const MAX_DEPTH = 256;

/** Values of the tree, counting shared ones as often as they are reached. */
const MAX_TREE_SIZE = 2_000_000;

/** Values that any file may have, and one more for each of its bytes: without sharing a value takes one at least. */
const FREE_TREE_SIZE = 1 << 16;

function childrenOf(value: object): readonly PickleValue[] {
  if (value instanceof Map) return [...value.keys(), ...value.values()];
  if (Array.isArray(value)) return value;
  return 'kind' in value && 'items' in value && Array.isArray(value.items) ? value.items : [];
}

/** What may stand in a finished tree; a pickle's stack also holds storages, constructors and the like. */
const FINISHED_KINDS = new Set<string>([
  'tuple',
  'set',
  'size',
  'dtype',
  'tensor',
  'reference',
] satisfies TorchTagged['kind'][]);

/**
 * The result of a pickle as plain data, after checking that it can be walked as a tree: no cycles, bounded
 * depth, bounded size when shared parts are counted as often as they are reached, nothing unfinished. Every
 * later walk may then recurse.
 * @param fileBytes size of the file
 * @throws {FormatError} otherwise
 */
export function plainTree(file: string, root: PickleValue, fileBytes: number): TorchValue {
  const maxSize = Math.min(MAX_TREE_SIZE, FREE_TREE_SIZE + fileBytes);
  interface Frame {
    readonly value: object;
    readonly children: readonly PickleValue[];
    next: number;
    size: number;
    height: number;
  }
  const finished = new Map<object, { size: number; height: number }>();
  const open = new Set<object>();
  const stack: Frame[] = [];

  const visit = (value: PickleValue, parent: Frame | undefined) => {
    if (typeof value !== 'object' || value === null) {
      if (parent !== undefined) addTo(parent, { size: 1, height: 0 });
      return;
    }
    if ('kind' in value && !FINISHED_KINDS.has(value.kind)) {
      throw new FormatError(file, `expected plain data and tensors, got a bare ${value.kind}`);
    }
    if (open.has(value))
      throw new FormatError(file, 'expected plain data, got a container that contains itself');
    const known = finished.get(value);
    if (known !== undefined && parent !== undefined) {
      addTo(parent, known);
      return;
    }
    const children = childrenOf(value);
    if (children.length === 0) {
      if (parent !== undefined) addTo(parent, { size: 1, height: 1 });
      return;
    }
    open.add(value);
    stack.push({ value, children, next: 0, size: 1, height: 1 });
    if (stack.length > MAX_DEPTH) throw tooDeep();
  };

  visit(root, undefined);
  for (let frame = stack.at(-1); frame !== undefined; frame = stack.at(-1)) {
    if (frame.next < frame.children.length) {
      visit(frame.children[frame.next++]!, frame);
      continue;
    }
    stack.pop();
    open.delete(frame.value);
    finished.set(frame.value, { size: frame.size, height: frame.height });
    const parent = stack.at(-1);
    if (parent !== undefined) addTo(parent, frame);
  }
  // Every object in the tree has been visited and is of a finished kind.
  return root as TorchValue;

  function addTo(frame: Frame, part: { size: number; height: number }): void {
    frame.size += part.size;
    frame.height = Math.max(frame.height, part.height + 1);
    if (frame.height > MAX_DEPTH) throw tooDeep();
    if (frame.size > maxSize) {
      throw new FormatError(
        file,
        `expected at most ${maxSize} values in a file of ${fileBytes} bytes, got ${frame.size} or more (shared parts counted each time)`,
      );
    }
  }

  function tooDeep(): FormatError {
    return new FormatError(file, `expected containers nested at most ${MAX_DEPTH} deep, got more`);
  }
}
