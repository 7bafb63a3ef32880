/**
 * The allow-list of torch pickles: what each name stands for and what calling it builds. Everything that is not
 * in these tables is refused by name. Matches torch/_weights_only_unpickler.py.
 */
import { latin1Bytes as bytesOfLatin1 } from '../io/bytes.ts';
import { isNumpyDtype, numpyDtype, numpyScalar, setByteOrder } from './numpy-scalar.ts';
import type { PickleHost } from './pickle-host.ts';
import {
  describe,
  type Fail,
  isPickleObject,
  isTuple,
  made,
  type PickleObject,
  type PickleValue,
} from './pickle-value.ts';
import type { PythonKeys } from './python-keys.ts';
import { STORAGE_DTYPES, TORCH_DTYPES } from './torch-dtypes.ts';
import { torchSize } from './torch-size.ts';
import { type FindStorage, type StorageClass, storageReference } from './torch-storage.ts';
import { rebuildParameter, rebuildTensorV1, rebuildTensorV2, rebuildTensorV3 } from './torch-tensor.ts';
import type { TorchDtype, TorchReference } from './torch-value.ts';

interface Callee extends PickleObject {
  readonly kind: 'callee';
  readonly name: string;
  readonly build: Builder;
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
      if (isNumpyDtype(object)) {
        setByteOrder(object, state, fail);
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
