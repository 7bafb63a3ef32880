/** Where the bytes of tensors are. */
import type { FileIdentity } from '../io/file-identity.ts';
import type { Steps } from '../pace.ts';

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
  /** What the file was when its tensors were found in it; absent where they are not read from one. */
  readonly opened?: FileIdentity;
  /** Bytes that are best asked for at a time, where they are made when they are read. */
  readonly pieceBytes?: number;
  /**
   * Bytes `[begin, end)` of the storage, little-endian.
   * @param into as many bytes, aligned to 8, which those of a file are written to and returned in
   * @throws {FormatError} when the file cannot be read.
   */
  read(begin: number, end: number, into?: Uint8Array<ArrayBuffer>): Uint8Array;
  /** The same while the caller goes on; absent where nothing is gained by that. */
  readLater?(begin: number, end: number, into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array>;
  /**
   * Compare the bytes with the checksum that the file keeps of them; absent where the format has none.
   * Costs one pass over the storage the first time, in steps, and nothing later. `read` does it by itself, in one go.
   * @throws {FormatError} if they differ
   */
  verify?(): Steps<void>;
}
