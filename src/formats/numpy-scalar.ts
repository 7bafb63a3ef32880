/** The numbers of numpy that training scripts leave in a checkpoint: one scalar of a plain dtype and its bytes. */
import { compactInteger } from './pickle-literals.ts';
import {
  type Fail,
  isPickleObject,
  isTuple,
  made,
  type PickleObject,
  type PickleValue,
} from './pickle-value.ts';

/** `numpy.dtype('f8')`, whose byte order arrives in a later BUILD. */
export interface NumpyDtype extends PickleObject {
  readonly kind: 'numpy-dtype';
  readonly code: string;
  byteOrder: string;
}

export function numpyDtype(args: readonly PickleValue[], fail: Fail): PickleValue {
  const [code] = args;
  if (typeof code !== 'string' || !Object.hasOwn(NUMPY_SCALARS, code)) {
    throw fail('expected the dtype of a numpy scalar, got something else');
  }
  return made<NumpyDtype>({ kind: 'numpy-dtype', code, byteOrder: '|' });
}

export function isNumpyDtype(value: PickleValue | undefined): value is NumpyDtype {
  return isPickleObject(value) && value.kind === 'numpy-dtype';
}

/** BUILD of a dtype: `(version, byte order, …)`. */
export function setByteOrder(dtype: NumpyDtype, state: PickleValue, fail: Fail): void {
  const order = isTuple(state) ? state.items[1] : undefined;
  if (order !== '<' && order !== '|' && order !== '=') {
    throw fail('expected a numpy dtype in little-endian order, got another');
  }
  dtype.byteOrder = order;
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

export function numpyScalar(args: readonly PickleValue[], fail: Fail): PickleValue {
  const [dtype, bytes] = args;
  if (args.length === 2 && isNumpyDtype(dtype) && bytes instanceof Uint8Array) {
    const scalar = NUMPY_SCALARS[dtype.code]!;
    if (bytes.length === scalar.width)
      return scalar.read(new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
  }
  throw fail('expected a numpy scalar of a plain dtype and its bytes, got something else');
}
