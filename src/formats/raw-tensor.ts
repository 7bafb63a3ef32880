/**
 * A tensor as it lies in a file: name, dtype, shape, strides and where its bytes are. Nothing is read
 * until `readBytes` or `readFloat32` asks for it.
 */
import { FormatError, ShapeError } from '../errors.ts';
import { inOneGo, type Steps } from '../pace.ts';
import { memoryStorage } from './byte-reader.ts';
import { type DType, decodeFloat32, decodeFloat64, dtypeWidth, isDecodable } from './dtype.ts';
import type { ByteRange, TensorStorage } from './tensor-storage.ts';

export interface RawTensor {
  /** Name inside its file; for torch files the dictionary keys on the way to it, joined by dots. */
  readonly name: string;
  readonly dtype: DType;
  /** Empty for a scalar. */
  readonly shape: readonly number[];
  /** Elements (not bytes) between neighbours along each axis; row-major unless the file says otherwise. */
  readonly strides: readonly number[];
  readonly storage: TensorStorage;
  /** First element within the storage, in elements. */
  readonly storageOffset: number;
}

/** Dimensions of a tensor that is read. numpy and PyTorch's kernels know no more. */
export const MAX_RANK = 64;

/** Characters of a tensor's name. Names are printed, joined and looked up; real ones have some 150. */
export const MAX_NAME_CHARACTERS = 4096;

/**
 * Number of elements; 1 for a scalar. `NaN` if any size is not a whole number ≥ 0, or if the sizes other than
 * zero multiply to more than 2^53 − 1 (so that 0 × 2^60 is refused as well).
 */
export function elementCount(shape: readonly number[]): number {
  let count = 1;
  let empty = false;
  for (const size of shape) {
    if (!(Number.isSafeInteger(size) && size >= 0)) return Number.NaN;
    if (size === 0) empty = true;
    else count *= size;
    if (count > Number.MAX_SAFE_INTEGER) return Number.NaN;
  }
  return empty ? 0 : count;
}

/** Row-major strides of a shape, in elements. */
export function rowMajorStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = step;
    step *= Math.max(1, shape[axis]!);
  }
  return strides;
}

/** Whether the elements lie in row-major order without gaps. Strides of axes of size 1 do not matter. */
export function isContiguous(tensor: RawTensor): boolean {
  if (tensor.shape.includes(0)) return true;
  let step = 1;
  for (let axis = tensor.shape.length - 1; axis >= 0; axis--) {
    const size = tensor.shape[axis]!;
    if (size !== 1 && tensor.strides[axis] !== step) return false;
    step *= size;
  }
  return true;
}

/**
 * Where the tensor's bytes lie as they are needed: row-major, uncompressed, in a file. `null` otherwise.
 * A storage with a checksum is verified before its place is given away.
 */
export function byteRangeOf(tensor: RawTensor): ByteRange | null {
  const { range } = tensor.storage;
  if (range === null || !isContiguous(tensor)) return null;
  if (tensor.storage.verify !== undefined) inOneGo(tensor.storage.verify());
  const width = dtypeWidth(tensor.dtype);
  return {
    file: range.file,
    offset: range.offset + tensor.storageOffset * width,
    length: elementCount(tensor.shape) * width,
  };
}

/**
 * The tensor's bytes in row-major order, whatever its strides. May be a view of memory that others share:
 * do not write to it.
 * @param into memory that they may be written to and returned in
 * @throws {FormatError} if the file cannot be read or is damaged
 */
export function readBytes(tensor: RawTensor, into?: Uint8Array<ArrayBuffer>): Uint8Array {
  const width = dtypeWidth(tensor.dtype);
  const count = elementCount(tensor.shape);
  const begin = tensor.storageOffset * width;
  if (count === 0) return new Uint8Array(0);
  if (isContiguous(tensor)) return tensor.storage.read(begin, begin + count * width, into);
  const last = tensor.shape.reduce((sum, size, axis) => sum + (size - 1) * tensor.strides[axis]!, 0);
  return gather(tensor.storage.read(begin, begin + (last + 1) * width), tensor, count, width);
}

/** Copy strided elements of `source` (which starts at the tensor's first element) into row-major order. */
function gather(source: Uint8Array, { shape, strides }: RawTensor, count: number, width: number): Uint8Array {
  const out = new Uint8Array(count * width);
  const index = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let to = 0; to < out.length; to += width) {
    for (let byte = 0; byte < width; byte++) out[to + byte] = source[from * width + byte]!;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      from -= shape[axis]! * strides[axis]!;
      index[axis] = 0;
    }
  }
  return out;
}

/**
 * The tensor's numbers in row-major order. One read into the final buffer if it is contiguous float32. May be
 * a view of memory that others share: do not write to it.
 * @throws {FormatError} if the file cannot be read or is damaged, or if the dtype is C64 or F4
 */
export function readFloat32(tensor: RawTensor): Float32Array {
  refuseUndecodable(tensor);
  return decodeFloat32(readBytes(tensor), tensor.dtype);
}

/**
 * As `readFloat32`, in float64: exact but for 64-bit integers beyond 2^53.
 * @param into as many numbers, which those of float64 in a file are written to and returned in
 */
export function readFloat64(tensor: RawTensor, into?: Float64Array<ArrayBuffer>): Float64Array {
  refuseUndecodable(tensor);
  const bytes = into && new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
  return decodeFloat64(readBytes(tensor, tensor.dtype === 'F64' ? bytes : undefined), tensor.dtype);
}

/** As `readFloat64`, while the caller goes on where the file can be read so. */
export async function readFloat64Later(
  tensor: RawTensor,
  into?: Float64Array<ArrayBuffer>,
): Promise<Float64Array> {
  const { dtype, shape, storage, storageOffset } = tensor;
  if (storage.readLater === undefined || dtype !== 'F64' || !isContiguous(tensor)) {
    return readFloat64(tensor, into);
  }
  const [begin, length] = [storageOffset, elementCount(shape)].map((count) => count * dtypeWidth(dtype));
  const bytes = into && new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
  return decodeFloat64(await storage.readLater(begin!, begin! + length!, bytes), dtype);
}

function refuseUndecodable(tensor: RawTensor): void {
  if (isDecodable(tensor.dtype)) return;
  const kind = tensor.dtype === 'C64' ? 'complex numbers (C64)' : 'packed 4-bit numbers (F4)';
  throw new FormatError(
    tensor.storage.range?.file ?? 'memory',
    `tensor "${tensor.name}": expected real numbers of 8 bits or more, got ${kind}`,
    { tensor: tensor.name },
  );
}

/**
 * Compare the bytes of all that these tensors lie in with the checksums kept of them, so that whoever asks for the bytes
 * later, in one go, finds that done.
 * @throws {FormatError} if they differ
 */
export function* verifyStorages(tensors: Iterable<RawTensor>): Steps<void> {
  for (const storage of new Set(Array.from(tensors, (tensor) => tensor.storage))) {
    if (storage.verify !== undefined) yield* storage.verify();
    yield;
  }
}

/** A row-major float32 tensor over `data` (not copied). @throws {ShapeError} if the sizes do not fit. */
export function float32Tensor(name: string, shape: readonly number[], data: Float32Array): RawTensor {
  return memoryTensor(name, 'F32', shape, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}

/** A row-major tensor over little-endian `bytes` (not copied). @throws {ShapeError} if the sizes do not fit. */
export function memoryTensor(
  name: string,
  dtype: DType,
  shape: readonly number[],
  bytes: Uint8Array,
): RawTensor {
  const needed = elementCount(shape) * dtypeWidth(dtype);
  if (needed !== bytes.byteLength) {
    throw new ShapeError(
      `${name}: expected ${needed} bytes for ${dtype} [${shape.join(', ')}], got ${bytes.byteLength}`,
    );
  }
  return {
    name,
    dtype,
    shape: [...shape],
    strides: rowMajorStrides(shape),
    storage: memoryStorage(bytes),
    storageOffset: 0,
  };
}

/** The same tensor under another name. */
export function renamed(tensor: RawTensor, name: string): RawTensor {
  return { ...tensor, name };
}

/**
 * Rows [start, start + count) of the first axis as a view; reads nothing. For embedding tables, of which a
 * prompt needs few rows.
 * @throws {ShapeError} if the tensor has no such rows
 */
export function sliceRows(tensor: RawTensor, start: number, count: number): RawTensor {
  const [rows, ...rest] = tensor.shape;
  if (rows === undefined || !(start >= 0 && count >= 0 && start + count <= rows)) {
    throw new ShapeError(
      `${tensor.name}: expected rows ${start} to ${start + count - 1}, got shape [${tensor.shape.join(', ')}]`,
    );
  }
  return {
    ...tensor,
    shape: [count, ...rest],
    storageOffset: tensor.storageOffset + start * tensor.strides[0]!,
  };
}

/**
 * A row-major tensor whose bytes are made when they are read: for writers that change weights as they stream.
 * @param compute little-endian bytes of the whole tensor; called anew for every read, which throws a `ShapeError` if
 *   they are not as many as the shape says
 */
export function computedTensor(
  name: string,
  dtype: DType,
  shape: readonly number[],
  compute: () => Uint8Array,
): RawTensor {
  const sizeBytes = elementCount(shape) * dtypeWidth(dtype);
  const storage: TensorStorage = {
    sizeBytes,
    range: null,
    read(begin, end) {
      const bytes = compute();
      if (bytes.length !== sizeBytes) {
        throw new ShapeError(
          `${name}: expected ${sizeBytes} bytes for ${dtype} [${shape.join(', ')}], got ${bytes.length}`,
        );
      }
      return bytes.subarray(begin, end);
    },
  };
  return { name, dtype, shape: [...shape], strides: rowMajorStrides(shape), storage, storageOffset: 0 };
}

/**
 * As `computedTensor`, some rows of the first axis at a time, so that whoever writes it may do something else in between.
 * @param rowsAtOnce of a piece
 * @param compute    little-endian bytes of rows [first, first + count)
 */
export function computedRows(
  name: string,
  dtype: DType,
  shape: readonly number[],
  rowsAtOnce: number,
  compute: (first: number, count: number) => Uint8Array,
): RawTensor {
  const rowBytes = elementCount(shape.slice(1)) * dtypeWidth(dtype);
  const storage: TensorStorage = {
    sizeBytes: elementCount(shape) * dtypeWidth(dtype),
    range: null,
    pieceBytes: rowsAtOnce * rowBytes,
    read(begin, end) {
      const first = Math.floor(begin / rowBytes);
      const bytes = compute(first, Math.ceil(end / rowBytes) - first);
      return bytes.subarray(begin - first * rowBytes, end - first * rowBytes);
    },
  };
  return { name, dtype, shape: [...shape], strides: rowMajorStrides(shape), storage, storageOffset: 0 };
}
