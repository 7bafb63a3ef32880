/**
 * What a torch file can hold, as plain data: containers, scalars and tensors. Dictionaries are `Map`s, so that
 * keys such as `__proto__` or `1` next to `"1"` are just keys.
 */
import { FormatError } from '../errors.ts';
import type { PickleValue } from './pickle.ts';
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
 * @throws {FormatError} otherwise
 */
export function plainTree(file: string, root: PickleValue): TorchValue {
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
    if (frame.size > MAX_TREE_SIZE) {
      throw new FormatError(
        file,
        `expected at most ${MAX_TREE_SIZE} values, got more (shared parts counted each time)`,
      );
    }
  }

  function tooDeep(): FormatError {
    return new FormatError(file, `expected containers nested at most ${MAX_DEPTH} deep, got more`);
  }
}

/** A dictionary key as a part of a dotted name, as Python prints it. */
function keyName(key: TorchValue): string {
  if (key === null) return 'None';
  if (key === true) return 'True';
  if (key === false) return 'False';
  if (key instanceof Uint8Array) return `b'${Buffer.from(key).toString('latin1')}'`;
  if (!isTagged(key)) return String(key);
  if (key.kind === 'tuple') return `(${key.items.map(keyName).join(', ')})`;
  return key.kind === 'dtype' || key.kind === 'reference' ? key.name : key.kind;
}

/**
 * The tensors of a value under the dictionary keys and list indices that lead to them, joined by dots, in file
 * order. A bare tensor is called by the empty name.
 * @param root as `plainTree` returns it
 * @throws {FormatError} if two tensors get the same name (`{'a.b': x, 'a': {'b': y}}`)
 */
export function flattenTensors(file: string, root: TorchValue): Map<string, RawTensor> {
  const tensors = new Map<string, RawTensor>();
  const visit = (value: TorchValue, name: string) => {
    const below = (key: TorchValue) => (name === '' ? keyName(key) : `${name}.${keyName(key)}`);
    if (value instanceof Map) {
      for (const [key, item] of value) visit(item, below(key));
    } else if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) visit(item, below(index));
    } else if (isTensor(value)) {
      if (tensors.has(name))
        throw new FormatError(file, `two tensors get the same name "${name}"`, { tensor: name });
      tensors.set(name, { ...value.tensor, name });
    } else if (isTagged(value) && (value.kind === 'tuple' || value.kind === 'set')) {
      for (const [index, item] of value.items.entries()) visit(item, below(index));
    }
  };
  visit(root, '');
  return tensors;
}
