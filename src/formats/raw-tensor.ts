/**
 * A tensor as it lies in a file: name, dtype, shape, strides and where its bytes are. Nothing is read
 * until `readBytes` or `readFloat32` asks for it.
 */
import type { DType } from './dtype.ts';

/** A stretch of a file. `offset` and `length` are in bytes. */
export interface ByteRange {
  /** Absolute path. */
  readonly file: string;
  readonly offset: number;
  readonly length: number;
}

/** The run of bytes that one or several tensors are views of. */
export interface TensorStorage {
  readonly sizeBytes: number;
  /** Where the bytes lie uncompressed in a file; `null` if they are compressed or only in memory. */
  readonly range: ByteRange | null;
  /** Bytes `[begin, end)` of the storage, little-endian. @throws {FormatError} when the file cannot be read. */
  read(begin: number, end: number): Uint8Array;
}

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
