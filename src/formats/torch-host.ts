/**
 * The allow-list of torch pickles: what each name stands for and what calling it builds. Everything that is not
 * in these tables is refused by name. Matches the constructors of torch/_utils.py and torch/_weights_only_unpickler.py.
 */
import { latin1Bytes as bytesOfLatin1 } from '../io/bytes.ts';
import { type DType, dtypeWidth } from './dtype.ts';
import type { PickleHost } from './pickle.ts';
import {
  describe,
  type Fail,
  isPickleObject,
  isTuple,
  type PickleObject,
  type PickleValue,
} from './pickle-value.ts';
import type { PythonKeys } from './python-keys.ts';
import { elementCount, MAX_RANK, type RawTensor } from './raw-tensor.ts';
import type { TensorStorage } from './tensor-storage.ts';
import type { TorchDtype, TorchReference, TorchSize, TorchTensor } from './torch-value.ts';

/** A storage as a pickle refers to it. Counts are in elements of `dtype`; `null` is an untyped run of bytes. */
export interface StorageReference extends PickleObject {
  readonly kind: 'storage';
  readonly dtype: DType | null;
  readonly storage: TensorStorage;
  /** First element of this view within `storage`. */
  readonly offset: number;
  readonly count: number;
}

/** What a persistent id asks for. */
export interface StorageRequest {
  readonly dtype: DType | null;
  readonly key: string;
  /** Elements of `dtype`, or bytes. */
  readonly count: number;
  readonly sizeBytes: number;
}

/** Finds the bytes of a storage; must check that it has exactly `sizeBytes`. */
export type FindStorage = (request: StorageRequest, fail: Fail) => TensorStorage;

const STORAGE_DTYPES: ReadonlyMap<string, DType | null> = new Map([
  ['DoubleStorage', 'F64'],
  ['FloatStorage', 'F32'],
  ['HalfStorage', 'F16'],
  ['BFloat16Storage', 'BF16'],
  ['LongStorage', 'I64'],
  ['IntStorage', 'I32'],
  ['ShortStorage', 'I16'],
  ['CharStorage', 'I8'],
  ['ByteStorage', 'U8'],
  ['BoolStorage', 'BOOL'],
  ['ComplexFloatStorage', 'C64'],
] as const);

/** `torch.<name>` as our dtype; `null` where it may stand in a file as a value but has no tensors here. */
const TORCH_DTYPES: ReadonlyMap<string, DType | null> = new Map([
  ['float64', 'F64'],
  ['float32', 'F32'],
  ['float16', 'F16'],
  ['bfloat16', 'BF16'],
  ['int64', 'I64'],
  ['int32', 'I32'],
  ['int16', 'I16'],
  ['int8', 'I8'],
  ['uint64', 'U64'],
  ['uint32', 'U32'],
  ['uint16', 'U16'],
  ['uint8', 'U8'],
  ['bool', 'BOOL'],
  ['complex64', 'C64'],
  ['complex128', null],
  ['float8_e4m3fn', 'F8_E4M3'],
  ['float8_e5m2', 'F8_E5M2'],
  ['float8_e4m3fnuz', 'F8_E4M3FNUZ'],
  ['float8_e5m2fnuz', 'F8_E5M2FNUZ'],
  ['float8_e8m0fnu', 'F8_E8M0'],
] as const);

/** Storage classes and dtypes by our dtype, for the writer. */
export const STORAGE_CLASSES: ReadonlyMap<DType, string> = invert(STORAGE_DTYPES);
export const TORCH_DTYPE_NAMES: ReadonlyMap<DType, string> = invert(TORCH_DTYPES);

function invert(names: ReadonlyMap<string, DType | null>): Map<DType, string> {
  const inverse = new Map<DType, string>();
  for (const [name, dtype] of names) if (dtype !== null) inverse.set(dtype, name);
  return inverse;
}

interface Callee extends PickleObject {
  readonly kind: 'callee';
  readonly name: string;
  readonly build: Builder;
}

interface StorageClass extends PickleObject {
  readonly kind: 'storage-class';
  readonly dtype: DType | null;
}

/** `numpy.dtype('f8')`, whose byte order arrives in a later BUILD. */
interface NumpyDtype extends PickleObject {
  readonly kind: 'numpy-dtype';
  readonly code: string;
  byteOrder: string;
}

type Builder = (args: readonly PickleValue[], fail: Fail, keys: PythonKeys) => PickleValue;

const BUILDERS: ReadonlyMap<string, Builder> = new Map<string, Builder>([
  ['collections.OrderedDict', orderedDict],
  ['torch._utils._rebuild_tensor', rebuildTensorV1],
  ['torch._utils._rebuild_tensor_v2', rebuildTensorV2],
  ['torch._utils._rebuild_tensor_v3', rebuildTensorV3],
  ['torch._utils._rebuild_parameter', rebuildParameter],
  ['torch.Size', torchSize],
  ['__builtin__.set', pythonSet],
  ['builtins.set', pythonSet],
  ['__builtin__.frozenset', pythonSet],
  ['builtins.frozenset', pythonSet],
  ['_codecs.encode', latin1Bytes],
  ['numpy.dtype', numpyDtype],
  ['numpy.core.multiarray.scalar', numpyScalar],
  ['numpy._core.multiarray.scalar', numpyScalar],
]);

const PARAMETER_DICT = 'torch.nn.modules.container.ParameterDict';

/** Classes that Lightning's checkpoints name as dictionary keys. They become inert names and cannot be called. */
const INERT_CLASS = /^(pytorch_lightning|lightning)\.callbacks\.([A-Za-z_]\w*\.)*[A-Za-z_]\w*$/;

/** A host for the main pickle of a torch file. */
export function torchHost(findStorage: FindStorage): PickleHost {
  /** ParameterDicts between their creation and their BUILD. */
  const unbuilt = new WeakSet<Map<PickleValue, PickleValue>>();
  return {
    global: (name, fail) => globalValue(name, fail),

    call(callee, args, fail, keys) {
      if (!isCallee(callee)) throw fail(`expected an allowed constructor to call, got ${describe(callee)}`);
      return callee.build(args, fail, keys);
    },

    create(type, args, fail) {
      if (!(isCallee(type) && type.name === PARAMETER_DICT && args.length === 0)) {
        throw fail(`pickle makes an object of ${describe(type)}, which is not allowed`);
      }
      const dict = new Map<PickleValue, PickleValue>();
      unbuilt.add(dict);
      return dict;
    },

    setState(object, state, fail, keys) {
      if (isPickleObject(object) && object.kind === 'numpy-dtype') {
        const order = isTuple(state) ? state.items[1] : undefined;
        if (order !== '<' && order !== '|' && order !== '=') {
          throw fail('expected a numpy dtype in little-endian order, got another');
        }
        (object as NumpyDtype).byteOrder = order;
        return;
      }
      if (object instanceof Map && state instanceof Map) {
        if (unbuilt.delete(object)) {
          copyParameters(object, state, fail, keys);
          return;
        }
        // Module.state_dict() hangs version numbers onto its OrderedDict.
        if (state.size === 0 || (state.size === 1 && state.has('_metadata'))) return;
      }
      throw fail(`pickle sets the state of ${describe(object)}, which is not allowed`);
    },

    persistent: (id, fail) => storageReference(id, findStorage, fail),
  };
}

/** Names the type of an object for the machine's stack, which knows only its `kind`. */
function made<T extends PickleObject>(object: T): T {
  return object;
}

function isCallee(value: PickleValue | undefined): value is Callee {
  return isPickleObject(value) && value.kind === 'callee';
}

function globalValue(name: string, fail: Fail): PickleValue {
  const build = BUILDERS.get(name);
  if (build !== undefined) return made<Callee>({ kind: 'callee', name, build });
  if (name === 'torch.storage.UntypedStorage')
    return made<StorageClass>({ kind: 'storage-class', dtype: null });
  const storage = /^torch\.(?:cuda\.)?(\w+)$/.exec(name)?.[1];
  const dtype = storage === undefined ? undefined : STORAGE_DTYPES.get(storage);
  if (dtype !== undefined) return made<StorageClass>({ kind: 'storage-class', dtype });
  if (name.startsWith('torch.') && TORCH_DTYPES.has(name.slice(6))) {
    return made<TorchDtype>({ kind: 'dtype', name });
  }
  if (name === PARAMETER_DICT) {
    return made<Callee>({ kind: 'callee', name, build: (_, failCall) => refuseCall(name, failCall) });
  }
  if (INERT_CLASS.test(name)) return made<TorchReference>({ kind: 'reference', name });
  throw fail(
    `pickle refers to ${JSON.stringify(name)}, which is not an allowed type; it could run code. ` +
      'If you trust its source, save the tensors again as safetensors',
  );
}

function refuseCall(name: string, fail: Fail): never {
  throw fail(`pickle calls "${name}", which is not allowed`);
}

function copyParameters(
  dict: Map<PickleValue, PickleValue>,
  state: Map<PickleValue, PickleValue>,
  fail: Fail,
  keys: PythonKeys,
): void {
  const parameters = state.get('_parameters');
  if (!(parameters instanceof Map)) throw fail('expected a ParameterDict with _parameters, got none');
  for (const [name, value] of parameters) {
    if (typeof name !== 'string') throw fail('expected parameter names as strings, got something else');
    keys.set(dict, name, value, fail);
  }
}

function orderedDict(args: readonly PickleValue[], fail: Fail, keys: PythonKeys): PickleValue {
  const dict = new Map<PickleValue, PickleValue>();
  if (args.length === 0) return dict;
  const [pairs] = args;
  if (args.length > 1 || !Array.isArray(pairs))
    throw fail('expected OrderedDict of a list of pairs, got something else');
  for (const pair of pairs) {
    const items = isTuple(pair) ? pair.items : Array.isArray(pair) ? pair : [];
    const [key, value] = items;
    if (items.length !== 2 || typeof key !== 'string') {
      throw fail('expected OrderedDict pairs of a string and a value, got something else');
    }
    keys.set(dict, key, value!, fail);
  }
  return dict;
}

function pythonSet(args: readonly PickleValue[], fail: Fail, keys: PythonKeys): PickleValue {
  const [items] = args;
  if (args.length === 0) return keys.setOf([], fail);
  if (args.length > 1 || !Array.isArray(items)) throw fail('expected set of a list, got something else');
  return keys.setOf(items, fail);
}

function torchSize(args: readonly PickleValue[], fail: Fail): PickleValue {
  if (args.length !== 1) throw fail('expected torch.Size of one tuple, got something else');
  return made<TorchSize>({ kind: 'size', sizes: wholeNumbers(args[0], 'sizes', fail) });
}

/** `bytes` as protocol 2 spells them: a string of code points below 256, encoded as Latin-1. */
function latin1Bytes(args: readonly PickleValue[], fail: Fail): PickleValue {
  const [text, encoding] = args;
  if (args.length !== 2 || typeof text !== 'string' || (encoding !== 'latin1' && encoding !== 'latin-1')) {
    throw fail('expected _codecs.encode of a string and "latin1", got something else');
  }
  for (let i = 0; i < text.length; i++) {
    if (text.charCodeAt(i) > 0xff) throw fail('expected bytes written as Latin-1 text, got wider characters');
  }
  return bytesOfLatin1(text);
}

function numpyDtype(args: readonly PickleValue[], fail: Fail): PickleValue {
  const [code] = args;
  if (typeof code !== 'string' || !Object.hasOwn(NUMPY_SCALARS, code)) {
    throw fail('expected the dtype of a numpy scalar, got something else');
  }
  return made<NumpyDtype>({ kind: 'numpy-dtype', code, byteOrder: '|' });
}

const NUMPY_SCALARS: Readonly<Record<string, { width: number; read: (view: DataView) => PickleValue }>> = {
  f8: { width: 8, read: (view) => view.getFloat64(0, true) },
  f4: { width: 4, read: (view) => view.getFloat32(0, true) },
  i8: { width: 8, read: (view) => compactInteger(view.getBigInt64(0, true)) },
  i4: { width: 4, read: (view) => view.getInt32(0, true) },
  i2: { width: 2, read: (view) => view.getInt16(0, true) },
  i1: { width: 1, read: (view) => view.getInt8(0) },
  u8: { width: 8, read: (view) => compactInteger(view.getBigUint64(0, true)) },
  u4: { width: 4, read: (view) => view.getUint32(0, true) },
  u2: { width: 2, read: (view) => view.getUint16(0, true) },
  u1: { width: 1, read: (view) => view.getUint8(0) },
  b1: { width: 1, read: (view) => view.getUint8(0) !== 0 },
};

function compactInteger(value: bigint): number | bigint {
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

function numpyScalar(args: readonly PickleValue[], fail: Fail): PickleValue {
  const [dtype, bytes] = args;
  if (
    args.length === 2 &&
    isPickleObject(dtype) &&
    dtype.kind === 'numpy-dtype' &&
    bytes instanceof Uint8Array
  ) {
    const scalar = NUMPY_SCALARS[(dtype as NumpyDtype).code]!;
    if (bytes.length === scalar.width)
      return scalar.read(new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
  }
  throw fail('expected a numpy scalar of a plain dtype and its bytes, got something else');
}

/** PyTorch counts storages; older ones are keyed by an address. */
const MAX_STORAGE_KEY_CHARACTERS = 200;

function storageReference(id: PickleValue, findStorage: FindStorage, fail: Fail): StorageReference {
  const items = isTuple(id) ? id.items : [];
  const [tag, type, key, location, count, view = null] = items;
  if (tag !== 'storage' || items.length < 5 || items.length > 6) {
    throw fail("expected a persistent id ('storage', class, key, location, count), got something else");
  }
  if (!isPickleObject(type) || type.kind !== 'storage-class') {
    throw fail('expected a storage class of torch in the persistent id, got something else');
  }
  const { dtype } = type as StorageClass;
  const width = dtype === null ? 1 : dtypeWidth(dtype);
  if (typeof key !== 'string' || typeof location !== 'string' || !isWhole(count) || !isWhole(count * width)) {
    throw fail('expected storage key, location and element count in the persistent id, got something else');
  }
  if (key.length > MAX_STORAGE_KEY_CHARACTERS) {
    throw fail(
      `expected a storage key of at most ${MAX_STORAGE_KEY_CHARACTERS} characters, got one of ${key.length}`,
    );
  }
  const storage = findStorage({ dtype, key, count, sizeBytes: count * width }, fail);
  if (view === null) return { kind: 'storage', dtype, storage, offset: 0, count };
  // Legacy files: (key of the view, offset, size), a part of the root storage.
  const [viewKey, offset, viewCount] = isTuple(view) ? view.items : [];
  if (typeof viewKey !== 'string' || !isWhole(offset) || !isWhole(viewCount)) {
    throw fail('expected a storage view (key, offset, size), got something else');
  }
  if (offset + viewCount > count) {
    throw fail(
      `storage view [${offset}, ${offset + viewCount}) reaches beyond its storage of ${count} elements`,
    );
  }
  return { kind: 'storage', dtype, storage, offset, count: viewCount };
}

function isWhole(value: PickleValue | undefined): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function wholeNumbers(value: PickleValue | undefined, what: string, fail: Fail): number[] {
  const items = isTuple(value)
    ? value.items
    : isPickleObject(value) && value.kind === 'size'
      ? (value as TorchSize).sizes
      : value;
  if (!Array.isArray(items) || !items.every(isWhole)) {
    throw fail(`expected ${what} as whole numbers ≥ 0 and below 2^53, got something else`);
  }
  return [...items];
}

/** Backward hooks are code. Files keep an empty dictionary in their place. */
function refuseHooks(hooks: PickleValue | undefined, fail: Fail): void {
  if (hooks === null || hooks === undefined || (hooks instanceof Map && hooks.size === 0)) return;
  throw fail('expected a tensor without hooks, got hooks; they are code and are not loaded');
}

/** Metadata marks lazily conjugated or negated tensors, whose bytes are not their numbers. */
function refuseMetadata(metadata: PickleValue | undefined, fail: Fail): void {
  if (metadata === null || metadata === undefined || (metadata instanceof Map && metadata.size === 0)) return;
  throw fail('expected a tensor without metadata (conjugate or negative views), got some');
}

/** (storage, offset, size, stride) */
function rebuildTensorV1(args: readonly PickleValue[], fail: Fail): PickleValue {
  if (args.length !== 4) throw fail(`expected 4 arguments to _rebuild_tensor, got ${args.length}`);
  return tensorOf(args, null, false, fail);
}

/** (storage, offset, size, stride, requires_grad, backward_hooks[, metadata]) */
function rebuildTensorV2(args: readonly PickleValue[], fail: Fail): PickleValue {
  if (args.length < 6 || args.length > 7)
    throw fail(`expected 6 or 7 arguments to _rebuild_tensor_v2, got ${args.length}`);
  refuseHooks(args[5], fail);
  refuseMetadata(args[6], fail);
  return tensorOf(args, null, args[4] === true, fail);
}

/** (storage, offset, size, stride, requires_grad, backward_hooks, dtype[, metadata]) */
function rebuildTensorV3(args: readonly PickleValue[], fail: Fail): PickleValue {
  if (args.length < 7 || args.length > 8)
    throw fail(`expected 7 or 8 arguments to _rebuild_tensor_v3, got ${args.length}`);
  refuseHooks(args[5], fail);
  refuseMetadata(args[7], fail);
  const named = args[6];
  const name = isPickleObject(named) && named.kind === 'dtype' ? (named as TorchDtype).name : '';
  const dtype = TORCH_DTYPES.get(name.replace('torch.', '')) ?? null;
  if (dtype === null) throw fail(`expected a tensor of a known dtype, got ${name || 'something else'}`);
  return tensorOf(args, dtype, args[4] === true, fail);
}

/** (data, requires_grad, backward_hooks) */
function rebuildParameter(args: readonly PickleValue[], fail: Fail): PickleValue {
  const [data] = args;
  if (args.length !== 3 || !isPickleObject(data) || data.kind !== 'tensor') {
    throw fail('expected _rebuild_parameter of a tensor, requires_grad and hooks, got something else');
  }
  refuseHooks(args[2], fail);
  return made<TorchTensor>({ ...(data as TorchTensor), parameter: true, requiresGrad: args[1] === true });
}

/** A view that repeats elements may not need more than this, or than its storage, once it is written out. */
const MAX_EXPANDED_BYTES = 1 << 26;

function tensorOf(
  [reference, offset, size, stride]: readonly PickleValue[],
  viewDtype: DType | null,
  requiresGrad: boolean,
  fail: Fail,
): TorchTensor {
  if (!isPickleObject(reference) || reference.kind !== 'storage') {
    throw fail('expected a storage to build a tensor on, got something else');
  }
  const source = reference as StorageReference;
  const dtype = viewDtype ?? source.dtype;
  if (dtype === null || (source.dtype !== null && source.dtype !== dtype)) {
    throw fail('expected a tensor of the dtype of its storage, got another or none');
  }
  const shape = wholeNumbers(size, 'tensor sizes', fail);
  const strides = wholeNumbers(stride, 'tensor strides', fail);
  if (shape.length > MAX_RANK) {
    throw fail(`expected a tensor of at most ${MAX_RANK} dimensions, got ${shape.length}`);
  }
  if (!isWhole(offset)) throw fail('expected a storage offset ≥ 0 and below 2^53, got something else');
  if (shape.length !== strides.length) {
    throw fail(`expected as many strides as sizes, got ${strides.length} and ${shape.length}`);
  }
  const width = dtypeWidth(dtype);
  const available = source.dtype === null ? Math.floor(source.count / width) : source.count;
  const count = elementCount(shape);
  const reach = shape.reduce((sum, length, axis) => sum + (length - 1) * strides[axis]!, offset);
  const end = count === 0 ? offset : reach + 1;
  if (Number.isNaN(count) || !(end <= available)) {
    throw fail(
      `tensor [${shape.join(', ')}] with strides [${strides.join(', ')}] from ${offset} reaches beyond its storage of ${available} elements`,
    );
  }
  if (count * width > Math.max(source.storage.sizeBytes, MAX_EXPANDED_BYTES)) {
    throw fail(
      `tensor [${shape.join(', ')}] repeats a storage of ${available} elements beyond ${MAX_EXPANDED_BYTES} bytes`,
    );
  }
  const tensor: RawTensor = {
    name: '',
    dtype,
    shape,
    strides,
    storage: source.storage,
    storageOffset: source.offset + offset,
  };
  return { kind: 'tensor', tensor, parameter: false, requiresGrad };
}
