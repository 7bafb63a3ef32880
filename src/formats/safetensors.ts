/**
 * safetensors files: an 8-byte length, a JSON header, then the tensors' bytes without gaps. Opening reads the
 * header alone; writing streams. Layout: https://github.com/huggingface/safetensors (README, "Format").
 */
import path from 'node:path';
import { FormatError, UsageError } from '../errors.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { fileStorage, locateFile, readFileRange, type SourceFile } from './byte-reader.ts';
import { DTYPES, dtypeWidth } from './dtype.ts';
import { detectFileKind } from './file-kind.ts';
import { elementCount, isContiguous, type RawTensor, readBytes, rowMajorStrides } from './raw-tensor.ts';
import { type HeaderEntry, parseSafetensorsHeader } from './safetensors-header.ts';
import type { TensorFile } from './tensor-file.ts';

/** The reference library's own limit for headers. */
const MAX_HEADER_BYTES = 100_000_000;

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
export function readSafetensors(file: string, source: SourceFile): TensorFile {
  const { path: absolute, sizeBytes } = source;
  const error = (message: string) => new FormatError(file, message);
  if (sizeBytes < LENGTH_BYTES) {
    throw error(`expected a safetensors file, got ${sizeBytes} bytes; truncated download?`);
  }
  const lengthBytes = readFileRange(absolute, 0, LENGTH_BYTES);
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
  const text = decodeHeader(readFileRange(absolute, LENGTH_BYTES, dataStart), error);
  const { entries, metadata } = parseSafetensorsHeader(text, error);
  const dataEnd = checkCoverage(entries, error);
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
      storage: fileStorage(absolute, dataStart + begin, end - begin),
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

/** The tensors must follow each other without gap or overlap from byte 0. @returns where the last one ends */
function checkCoverage(entries: readonly HeaderEntry[], error: (message: string) => FormatError): number {
  let end = 0;
  for (const entry of [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== end) {
      const defect = entry.begin < end ? 'overlaps another tensor' : 'leaves a gap';
      throw error(`tensor "${entry.name}": ${defect}: expected to begin at byte ${end}, got ${entry.begin}`);
    }
    end = entry.end;
  }
  return end;
}

/**
 * Write a safetensors file, byte for byte as the reference library orders it: widest dtype first, then by name;
 * header padded with blanks to a multiple of 8. Tensors are read one after the other while writing.
 * @param file     path; its folder must exist, an existing file is replaced once the new one is complete
 * @param tensors  distinct names
 * @param metadata strings for `__metadata__`, in this order; none by default
 * @throws {UsageError} if two tensors share a name, or one is called `__metadata__`
 */
export async function writeSafetensors(
  file: string,
  tensors: Iterable<RawTensor>,
  metadata: SafetensorsMetadata = {},
): Promise<void> {
  const { head, order } = layOutSafetensors(file, tensors, metadata);
  await writeFileAtomically(path.resolve(file), gathered(chunksOf(head, order)));
}

/** Strings for `__metadata__`, in order. */
export type SafetensorsMetadata = Readonly<Record<string, string>> | ReadonlyMap<string, string>;

/**
 * What `writeSafetensors` writes, before any tensor is read: the bytes of length and header, then the tensors in order.
 * For writers that bring the tensors' bytes themselves.
 * @throws {UsageError} as `writeSafetensors`
 */
export function layOutSafetensors(
  file: string,
  tensors: Iterable<RawTensor>,
  metadata: SafetensorsMetadata = {},
): { readonly head: Uint8Array; readonly order: readonly RawTensor[] } {
  const sorted = [...tensors].sort(
    (a, b) =>
      DTYPES.indexOf(b.dtype) - DTYPES.indexOf(a.dtype) ||
      Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)),
  );
  const members: string[] = [];
  const labels = metadata instanceof Map ? [...metadata] : Object.entries(metadata);
  if (labels.length > 0) {
    const pairs = labels.map(([key, value]) => `${quote(file, key)}:${quote(file, value)}`);
    members.push(`"__metadata__":{${pairs.join(',')}}`);
  }
  const names = new Set(['__metadata__']);
  let end = 0;
  for (const { name, dtype, shape } of sorted) {
    if (names.has(name)) throw new UsageError(`${file}: expected distinct tensor names, got "${name}" twice`);
    names.add(name);
    const begin = end;
    end += elementCount(shape) * dtypeWidth(dtype);
    members.push(
      `${quote(file, name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${begin},${end}]}`,
    );
  }
  const header = Buffer.from(`{${members.join(',')}}`);
  const padded = Buffer.alloc(Math.ceil(header.length / 8) * 8, 0x20);
  header.copy(padded);
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(padded.length));
  return { head: Buffer.concat([length, padded]), order: sorted };
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
  const block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
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

/** A tensor's bytes in row-major order, in pieces that fit in memory. */
export function* tensorChunks(tensor: RawTensor): Generator<Uint8Array> {
  if (!isContiguous(tensor)) {
    yield readBytes(tensor);
    return;
  }
  const width = dtypeWidth(tensor.dtype);
  const begin = tensor.storageOffset * width;
  const end = begin + elementCount(tensor.shape) * width;
  for (let from = begin; from < end; from += CHUNK_BYTES) {
    yield tensor.storage.read(from, Math.min(end, from + CHUNK_BYTES));
  }
}

function quote(file: string, text: string): string {
  if (/\p{Surrogate}/u.test(text)) {
    throw new UsageError(
      `${file}: expected well-formed Unicode in names and metadata, got ${JSON.stringify(text)}`,
    );
  }
  return JSON.stringify(text);
}
