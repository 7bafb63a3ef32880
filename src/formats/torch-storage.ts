/** The storages of a torch pickle: what its persistent ids ask for, and which part of one is meant. */
import { type DType, dtypeWidth } from './dtype.ts';
import { type Fail, isPickleObject, isTuple, type PickleObject, type PickleValue } from './pickle-value.ts';
import type { TensorStorage } from './tensor-storage.ts';
import { isWhole } from './torch-size.ts';

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

export interface StorageClass extends PickleObject {
  readonly kind: 'storage-class';
  readonly dtype: DType | null;
}

/** PyTorch counts storages; older ones are keyed by an address. */
const MAX_STORAGE_KEY_CHARACTERS = 200;

export function storageReference(id: PickleValue, findStorage: FindStorage, fail: Fail): StorageReference {
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
