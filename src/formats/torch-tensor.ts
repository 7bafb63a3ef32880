/** Tensors as torch pickles rebuild them: views of a storage, checked to lie inside it. Matches torch/_utils.py. */
import { type DType, dtypeWidth } from './dtype.ts';
import { type Fail, isPickleObject, made, type PickleValue } from './pickle-value.ts';
import { elementCount, MAX_RANK, type RawTensor } from './raw-tensor.ts';
import { TORCH_DTYPES } from './torch-dtypes.ts';
import { isWhole, wholeNumbers } from './torch-size.ts';
import type { StorageReference } from './torch-storage.ts';
import type { TorchDtype, TorchTensor } from './torch-value.ts';

/** (storage, offset, size, stride) */
export function rebuildTensorV1(args: readonly PickleValue[], fail: Fail): PickleValue {
  if (args.length !== 4) throw fail(`expected 4 arguments to _rebuild_tensor, got ${args.length}`);
  return tensorOf(args, null, false, fail);
}

/** (storage, offset, size, stride, requires_grad, backward_hooks[, metadata]) */
export function rebuildTensorV2(args: readonly PickleValue[], fail: Fail): PickleValue {
  if (args.length < 6 || args.length > 7)
    throw fail(`expected 6 or 7 arguments to _rebuild_tensor_v2, got ${args.length}`);
  refuseHooks(args[5], fail);
  refuseMetadata(args[6], fail);
  return tensorOf(args, null, args[4] === true, fail);
}

/** (storage, offset, size, stride, requires_grad, backward_hooks, dtype[, metadata]) */
export function rebuildTensorV3(args: readonly PickleValue[], fail: Fail): PickleValue {
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
export function rebuildParameter(args: readonly PickleValue[], fail: Fail): PickleValue {
  const [data] = args;
  if (args.length !== 3 || !isPickleObject(data) || data.kind !== 'tensor') {
    throw fail('expected _rebuild_parameter of a tensor, requires_grad and hooks, got something else');
  }
  refuseHooks(args[2], fail);
  return made<TorchTensor>({ ...(data as TorchTensor), parameter: true, requiresGrad: args[1] === true });
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
