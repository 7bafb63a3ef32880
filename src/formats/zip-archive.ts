/**
 * The directory of a zip file, checked: one entry per name, sizes that the file has room for, entries that do
 * not overlap, headers that agree. Nothing is ever extracted to disk.
 */
import { FormatError } from '../errors.ts';
import { equalBytes } from '../io/bytes.ts';
import { readFileRange, type SourceFile } from '../io/file-range.ts';
import { crc32, inflateRaw } from '../io/platform/deflate.ts';
import { inOneGo, type Steps } from '../pace.ts';
import type { TensorStorage } from './tensor-storage.ts';
import { type ZipRecord, zipRecords } from './zip-records.ts';

export interface ZipEntry {
  readonly name: string;
  readonly compressed: boolean;
  /** Where the entry's bytes begin in the file. */
  readonly dataStart: number;
  readonly compressedBytes: number;
  readonly sizeBytes: number;
  readonly crc32: number;
}

/** Torch files have one entry per tensor; the largest checkpoints have a few thousand. */
export const MAX_ENTRIES = 50_000;

const LOCAL_HEADER_BYTES = 30;
const ENCRYPTED = 0x1;
const SIZES_FOLLOW = 0x8;
const STORED = 0;
const DEFLATED = 8;
/** No deflate stream expands further. */
const MAX_DEFLATE_RATIO = 1032;

/**
 * What all deflated entries of a file may become together: 64 MiB, and 16 times the file's size. Weights shrink by a
 * half at most, unless they are zeros.
 */
const FREE_INFLATED_BYTES = 1 << 26;
const INFLATED_PER_BYTE = 16;

/**
 * The largest entry that is inflated, in one piece and in less than a second: SDXL's largest tensor in float32. PyTorch
 * deflates nothing; tensors of this size are stored.
 */
const MAX_INFLATED_ENTRY_BYTES = 2 ** 28;

/**
 * Read the directory of a zip file.
 * @throws {FormatError} if it is damaged, contradictory, encrypted, or uses other methods than store and deflate
 */
export async function readZipDirectory(file: string, source: SourceFile): Promise<Map<string, ZipEntry>> {
  const entries = new Map<string, ZipEntry>();
  const occupied: { begin: number; end: number; name: string }[] = [];
  for await (const record of zipRecords(file, source, MAX_ENTRIES)) {
    const entry = checkEntry(file, source, record);
    if (entries.has(entry.name)) throw new FormatError(file, `zip entry "${entry.name}" occurs twice`);
    entries.set(entry.name, entry);
    occupied.push({
      begin: record.relativeOffsetOfLocalHeader,
      end: entry.dataStart + entry.compressedBytes,
      name: entry.name,
    });
  }
  checkInflatedSize(file, source, entries.values());
  occupied.sort((a, b) => a.begin - b.begin);
  for (const [i, entry] of occupied.entries()) {
    const previous = occupied[i - 1];
    if (previous !== undefined && entry.begin < previous.end) {
      throw new FormatError(file, `zip entries "${previous.name}" and "${entry.name}" overlap`);
    }
  }
  return entries;
}

/** Before anything is inflated. What is declared binds: inflating stops at it. */
function checkInflatedSize(file: string, source: SourceFile, entries: Iterable<ZipEntry>): void {
  const allowed = FREE_INFLATED_BYTES + INFLATED_PER_BYTE * source.sizeBytes;
  let inflated = 0;
  for (const { name, compressed, sizeBytes } of entries) {
    if (!compressed) continue;
    inflated += sizeBytes;
    if (sizeBytes > MAX_INFLATED_ENTRY_BYTES) {
      throw new FormatError(
        file,
        `zip entry "${name}": expected at most ${MAX_INFLATED_ENTRY_BYTES} bytes in a deflated entry, got ${sizeBytes}; store it, or save as safetensors`,
      );
    }
  }
  if (inflated > allowed) {
    throw new FormatError(
      file,
      `expected deflated entries of at most ${allowed} bytes in a file of ${source.sizeBytes}, got ${inflated}; ` +
        'refused: if you trust it, save it again without compression',
    );
  }
}

function checkEntry(file: string, source: SourceFile, record: ZipRecord): ZipEntry {
  const name = record.fileName;
  const fail = (message: string) => new FormatError(file, `zip entry "${name}": ${message}`);
  const { compressionMethod: method, compressedSize, uncompressedSize, crc32 } = record;
  if ((record.generalPurposeBitFlag & ENCRYPTED) !== 0) throw fail('expected plain data, got encrypted data');
  if (method !== STORED && method !== DEFLATED) {
    throw fail(`expected it stored or deflated, got compression method ${method}`);
  }
  const headerStart = record.relativeOffsetOfLocalHeader;
  if (!(headerStart + LOCAL_HEADER_BYTES <= source.sizeBytes)) {
    throw fail(`expected to begin within the file's ${source.sizeBytes} bytes, got byte ${headerStart}`);
  }
  const bytes = readFileRange(source, headerStart, headerStart + LOCAL_HEADER_BYTES);
  const header = new DataView(bytes.buffer);
  const nameBytes = header.getUint16(26, true);
  const nameStart = headerStart + LOCAL_HEADER_BYTES;
  const dataStart = nameStart + nameBytes + header.getUint16(28, true);
  if (header.getUint32(0, true) !== 0x04034b50)
    throw fail(`expected a header at byte ${headerStart}, got other bytes`);
  if (!(dataStart + compressedSize <= source.sizeBytes)) {
    throw fail(
      `expected ${dataStart + compressedSize} bytes in the file, got ${source.sizeBytes}; truncated download?`,
    );
  }
  if (!equalBytes(readFileRange(source, nameStart, nameStart + nameBytes), record.fileNameRaw)) {
    throw fail('expected the same name in its own header, got another');
  }
  if (header.getUint16(8, true) !== method)
    throw fail('expected the same compression method in both headers');
  const localCrc = header.getUint32(14, true);
  if (
    (header.getUint16(6, true) & SIZES_FOLLOW) === 0
      ? localCrc !== crc32
      : localCrc !== 0 && localCrc !== crc32
  ) {
    throw fail('expected the same checksum in both headers, got two');
  }
  if (method === DEFLATED && uncompressedSize > compressedSize * MAX_DEFLATE_RATIO) {
    throw fail(`${compressedSize} deflated bytes cannot hold the declared ${uncompressedSize}`);
  }
  return {
    name,
    compressed: method === DEFLATED,
    dataStart,
    compressedBytes: compressedSize,
    sizeBytes: uncompressedSize,
    crc32,
  };
}

/**
 * An entry's bytes, inflated if need be, checked against size and checksum.
 * @throws {FormatError} if they do not match; inflating stops at the declared size
 */
export function readZipEntry(file: string, source: SourceFile, entry: ZipEntry): Uint8Array {
  const raw = readFileRange(source, entry.dataStart, entry.dataStart + entry.compressedBytes);
  const bytes = entry.compressed ? inflate(file, entry, raw) : raw;
  checkCrc(file, entry, crc32(bytes));
  return bytes;
}

function inflate(file: string, entry: ZipEntry, raw: Uint8Array): Uint8Array {
  const fail = (message: string, cause?: unknown) =>
    new FormatError(file, `zip entry "${entry.name}": ${message}`, { cause });
  let bytes: Uint8Array;
  try {
    // One byte more than declared, so that a longer stream is told from a fitting one.
    bytes = inflateRaw(raw, entry.sizeBytes + 1);
  } catch (error) {
    if (error instanceof RangeError)
      throw fail(`expected ${entry.sizeBytes} bytes, got more when inflating`, error);
    throw fail('expected deflated data, got something else', error);
  }
  if (bytes.length !== entry.sizeBytes) {
    throw fail(`expected ${entry.sizeBytes} bytes, got ${bytes.length} when inflating`);
  }
  return bytes;
}

function checkCrc(file: string, entry: ZipEntry, crc: number): void {
  if (crc === entry.crc32) return;
  throw new FormatError(
    file,
    `zip entry "${entry.name}": expected checksum ${hex(entry.crc32)}, got ${hex(crc)}; damaged file: fetch it again`,
  );
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}

/** How much is read at a time to compute a checksum. */
const CHUNK_BYTES = 1 << 23;

/** An entry as a tensor's storage. Its checksum is compared before any byte is handed out, once. */
export function zipStorage(file: string, source: SourceFile, entry: ZipEntry): TensorStorage {
  if (entry.compressed) return inflatedStorage(file, source, entry);
  const { dataStart, sizeBytes } = entry;
  let verified = false;
  const verify = function* (): Steps<void> {
    if (verified) return;
    let crc = 0;
    for (let from = 0; from < sizeBytes; from += CHUNK_BYTES) {
      const to = Math.min(sizeBytes, from + CHUNK_BYTES);
      crc = crc32(readFileRange(source, dataStart + from, dataStart + to), crc);
      yield;
    }
    checkCrc(file, entry, crc);
    verified = true;
  };
  return {
    sizeBytes,
    range: { file: source.path, offset: dataStart, length: sizeBytes },
    opened: source,
    verify,
    read(begin, end) {
      if (!verified && begin === 0 && end === sizeBytes) {
        const bytes = readZipEntry(file, source, entry);
        verified = true;
        return bytes;
      }
      inOneGo(verify());
      return readFileRange(source, dataStart + begin, dataStart + end);
    },
  };
}

/** A storage that had to be inflated this often is kept: thousands of tensors may be views of one. */
const INFLATIONS_BEFORE_KEPT = 3;

function inflatedStorage(file: string, source: SourceFile, entry: ZipEntry): TensorStorage {
  let weak: WeakRef<Uint8Array> | undefined;
  let kept: Uint8Array | undefined;
  let inflations = 0;
  const inflated = () => {
    let bytes = kept ?? weak?.deref();
    if (bytes === undefined) {
      bytes = readZipEntry(file, source, entry);
      weak = new WeakRef(bytes);
      if (++inflations === INFLATIONS_BEFORE_KEPT) kept = bytes;
    }
    return bytes;
  };
  return {
    sizeBytes: entry.sizeBytes,
    range: null,
    opened: source,
    // Inflating cannot be interrupted: `MAX_INFLATED_ENTRY_BYTES` bounds it.
    *verify() {
      yield;
      inflated();
    },
    read: (begin, end) => inflated().subarray(begin, end),
  };
}
