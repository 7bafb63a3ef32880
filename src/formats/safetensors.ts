/**
 * safetensors files: an 8-byte length, a JSON header, then the tensors' bytes without gaps. Opening reads the
 * header alone; writing streams. Layout: https://github.com/huggingface/safetensors (README, "Format").
 */

import { FormatError, ShapeError, UsageError } from '../errors.ts';
import { compareBytes, utf8Bytes } from '../io/bytes.ts';
import { locateFile, readFileRange, type SourceFile } from '../io/file-range.ts';
import { freshBytes } from '../io/platform/machine.ts';
import * as path from '../io/platform/paths.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { Pace, type Steps } from '../pace.ts';
import { fileStorage } from './byte-reader.ts';
import { DTYPES, dtypeWidth } from './dtype.ts';
import { detectFileKind } from './file-kind.ts';
import { elementCount, isContiguous, type RawTensor, readBytes, rowMajorStrides } from './raw-tensor.ts';
import { MAX_HEADER_BYTES, parseSafetensorsHeader } from './safetensors-header.ts';
import type { TensorFile } from './tensor-file.ts';

const LENGTH_BYTES = 8;

/**
 * Open a safetensors file; reads its header only.
 * @param file path; errors quote it as given
 * @throws {FormatError} if anything in it contradicts itself: lengths, names, shapes, gaps, overlaps
 */
export async function openSafetensors(file: string): Promise<TensorFile> {
  const source = locateFile(file);
  const kind = detectFileKind(file, source);
  if (kind === 'zip' || kind === 'torch-legacy') {
    throw new FormatError(file, 'expected a safetensors file, got a PyTorch one; name it .pth or .pt');
  }
  return readSafetensors(file, source);
}

/** As `openSafetensors`, for a file already found and recognised. */
export async function readSafetensors(file: string, source: SourceFile): Promise<TensorFile> {
  const { path: absolute, sizeBytes } = source;
  const error = (message: string) => new FormatError(file, message);
  if (sizeBytes < LENGTH_BYTES) {
    throw error(`expected a safetensors file, got ${sizeBytes} bytes; truncated download?`);
  }
  const lengthBytes = readFileRange(source, 0, LENGTH_BYTES);
  const headerBytes = Number(new DataView(lengthBytes.buffer).getBigUint64(0, true));
  if (headerBytes > MAX_HEADER_BYTES) {
    throw error(
      `expected a safetensors header of at most ${MAX_HEADER_BYTES} bytes, got the length ${headerBytes}; not a safetensors file?`,
    );
  }
  const dataStart = LENGTH_BYTES + headerBytes;
  if (dataStart > sizeBytes) {
    throw error(
      `header: expected ${headerBytes} bytes, got ${sizeBytes - LENGTH_BYTES}; truncated download, or not a safetensors file?`,
    );
  }
  const text = decodeHeader(readFileRange(source, LENGTH_BYTES, dataStart), error);
  const { entries, metadata, dataEnd } = await new Pace().run(parseSafetensorsHeader(text, error));
  if (dataStart + dataEnd > sizeBytes) {
    throw error(
      `expected ${dataStart + dataEnd} bytes by its header, got ${sizeBytes}; truncated download: fetch it again`,
    );
  }
  if (dataStart + dataEnd < sizeBytes) {
    throw error(
      `expected ${dataStart + dataEnd} bytes by its header, got ${sizeBytes}; bytes after the last tensor are not allowed`,
    );
  }
  const tensors = new Map<string, RawTensor>();
  for (const { name, dtype, shape, begin, end } of entries) {
    tensors.set(name, {
      name,
      dtype,
      shape,
      strides: rowMajorStrides(shape),
      storage: fileStorage(source, dataStart + begin, end - begin),
      storageOffset: 0,
    });
  }
  return { path: absolute, format: 'safetensors', sizeBytes, tensors, metadata, root: null };
}

function decodeHeader(bytes: Uint8Array, error: (message: string) => FormatError): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw error('header: expected UTF-8 text, got other bytes; not a safetensors file?');
  }
}

/**
 * Write a safetensors file, byte for byte as the reference library orders it: widest dtype first, then by name;
 * header padded with blanks to a multiple of 8. Tensors are read one after the other while writing.
 * @param file     path; its folder must exist, an existing file is replaced once the new one is complete
 * @param tensors  distinct names
 * @param metadata strings for `__metadata__`, in this order; none by default
 * @param pace     between the tensors; where it ends, nothing is left behind
 * @throws {UsageError} if the file could not be read again: two tensors share a name, a shape is none, a header
 *   beyond 100 MB
 * @throws {ShapeError} if a tensor's bytes are not as many as its shape says; nothing is left behind
 */
export async function writeSafetensors(
  file: string,
  tensors: Iterable<RawTensor>,
  metadata: SafetensorsMetadata = {},
  pace: Pace = new Pace(),
): Promise<void> {
  const { head, order } = await pace.run(layOutSafetensors(file, tensors, metadata));
  await writeFileAtomically(path.resolve(file), pace.over(gathered(chunksOf(head, order))));
}

/** Strings for `__metadata__`, in order. */
export type SafetensorsMetadata = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/**
 * What `writeSafetensors` writes, before any tensor is read: the bytes of length and header, then the tensors in order.
 * For writers that bring the tensors' bytes themselves. The header is judged by the rules that reading it has.
 * @throws {UsageError} as `writeSafetensors`
 */
export function* layOutSafetensors(
  file: string,
  tensors: Iterable<RawTensor>,
  metadata: SafetensorsMetadata = {},
): Steps<{ readonly head: Uint8Array; readonly order: readonly RawTensor[] }> {
  const sorted = Array.from(tensors, (tensor) => ({ tensor, name: utf8Bytes(tensor.name) }))
    .sort(
      (a, b) =>
        DTYPES.indexOf(b.tensor.dtype) - DTYPES.indexOf(a.tensor.dtype) || compareBytes(a.name, b.name),
    )
    .map(({ tensor }) => tensor);
  const header = new HeaderWriter(file);
  const labels = metadata instanceof Map ? [...metadata] : Object.entries(metadata);
  for (const [i, [key, value]] of labels.entries()) {
    header.add(i === 0 ? '"__metadata__":{' : ',', quote(file, key), ':', quote(file, value));
  }
  if (labels.length > 0) header.add(sorted.length > 0 ? '},' : '}');
  let end = 0;
  for (const [i, { name, dtype, shape }] of sorted.entries()) {
    const begin = end;
    end += elementCount(shape) * dtypeWidth(dtype);
    const entry = `{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${begin},${end}]}`;
    header.add(i === 0 ? '' : ',', quote(file, name), ':', entry);
  }
  yield;
  return { head: yield* header.finish(), order: sorted };
}

/** A header piece by piece, never more than may be read. */
class HeaderWriter {
  readonly #file: string;
  readonly #parts: string[] = ['{'];
  #characters = 0;

  constructor(file: string) {
    this.#file = file;
  }

  add(...parts: readonly string[]): void {
    for (const part of parts) this.#characters += part.length;
    if (this.#characters > MAX_HEADER_BYTES) throw this.#tooLong(this.#characters);
    this.#parts.push(...parts);
  }

  /** Length and header. @throws {UsageError} if `parseSafetensorsHeader` would refuse it */
  *finish(): Steps<Uint8Array> {
    this.#parts.push('}');
    const text = this.#parts.join('');
    yield* parseSafetensorsHeader(
      text,
      (message) => new UsageError(`${this.#file}: cannot be written, since it could not be read: ${message}`),
    );
    const header = utf8Bytes(text);
    const padded = Math.ceil(header.length / 8) * 8;
    if (padded > MAX_HEADER_BYTES) throw this.#tooLong(padded);
    const head = new Uint8Array(LENGTH_BYTES + padded).fill(0x20);
    new DataView(head.buffer).setBigUint64(0, BigInt(padded), true);
    head.set(header, LENGTH_BYTES);
    return head;
  }

  #tooLong(bytes: number): UsageError {
    return new UsageError(
      `${this.#file}: expected names and metadata that fit in a header of ${MAX_HEADER_BYTES} bytes, got ${bytes} or more`,
    );
  }
}

/** Bytes of a tensor that are held in memory at once while writing. */
const CHUNK_BYTES = 1 << 26;

function* chunksOf(head: Uint8Array, tensors: readonly RawTensor[]): Generator<Uint8Array> {
  yield head;
  for (const tensor of tensors) yield* tensorChunks(tensor);
}

/** Small chunks are gathered up to this size. */
const BLOCK_BYTES = 1 << 22;

/** The same bytes in fewer chunks. Those that were gathered are valid until the next is asked for. */
function* gathered(chunks: Iterable<Uint8Array>): Generator<Uint8Array> {
  const block = freshBytes(BLOCK_BYTES);
  let used = 0;
  for (const chunk of chunks) {
    if (used + chunk.length > BLOCK_BYTES && used > 0) {
      yield block.subarray(0, used);
      used = 0;
    }
    if (chunk.length > BLOCK_BYTES) {
      yield chunk;
      continue;
    }
    block.set(chunk, used);
    used += chunk.length;
  }
  if (used > 0) yield block.subarray(0, used);
}

/**
 * A tensor's bytes in row-major order, in pieces that fit in memory.
 * @throws {ShapeError} if its storage hands out more or fewer than its shape says
 */
export function* tensorChunks(tensor: RawTensor): Generator<Uint8Array> {
  const width = dtypeWidth(tensor.dtype);
  const bytes = elementCount(tensor.shape) * width;
  if (!isContiguous(tensor)) {
    yield wholePiece(tensor, readBytes(tensor), bytes);
    return;
  }
  const begin = tensor.storageOffset * width;
  const end = begin + bytes;
  const step = tensor.storage.pieceBytes ?? CHUNK_BYTES;
  for (let from = begin; from < end; from += step) {
    const to = Math.min(end, from + step);
    yield wholePiece(tensor, tensor.storage.read(from, to), to - from);
  }
}

function wholePiece({ name, shape }: RawTensor, piece: Uint8Array, bytes: number): Uint8Array {
  if (piece.length === bytes) return piece;
  throw new ShapeError(
    `tensor "${name}": expected ${bytes} bytes for [${shape.join(', ')}], got ${piece.length}`,
  );
}

function quote(file: string, text: string): string {
  if (text.length > MAX_HEADER_BYTES) {
    throw new UsageError(
      `${file}: expected names and metadata of at most ${MAX_HEADER_BYTES} characters, got one of ${text.length}`,
    );
  }
  if (/\p{Surrogate}/u.test(text)) {
    throw new UsageError(
      `${file}: expected well-formed Unicode in names and metadata, got ${JSON.stringify(text)}`,
    );
  }
  return JSON.stringify(text);
}
