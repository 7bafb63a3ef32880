/** Names of torch: storage classes and dtypes as our dtypes, for who reads, and the other way for who writes. */
import type { DType } from './dtype.ts';

export const STORAGE_DTYPES: ReadonlyMap<string, DType | null> = new Map([
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
export const TORCH_DTYPES: ReadonlyMap<string, DType | null> = new Map([
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
