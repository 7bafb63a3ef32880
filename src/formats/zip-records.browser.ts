/**
 * The records of a zip file's directory, read in plain TypeScript (APPNOTE.TXT 4.3.12 and 4.3.16). The same names as in
 * `zip-records.ts`. What needs zip64 is larger than a page can hold and is refused; PyTorch writes its records all the same,
 * and they must say what the others say.
 */
import { FormatError } from '../errors.ts';
import { utf8Text } from '../io/bytes.ts';
import { readFileRange, type SourceFile } from '../io/file-range.ts';
import type { ZipRecord } from './zip-records.ts';

const END_BYTES = 22;
/** Zip64: where its record of the end lies, right in front of the plain one, and that record. */
const LOCATOR_BYTES = 20;
const END64_BYTES = 56;
const MAX_COMMENT_BYTES = 0xffff;
const RECORD_BYTES = 46;
/** In either way. */
const ENCRYPTED = 0x41;
const NAMES_IN_UTF8 = 0x800;

/** @throws {FormatError} as in `zip-records.ts` */
export async function* zipRecords(
  file: string,
  source: SourceFile,
  maxEntries: number,
): AsyncGenerator<ZipRecord> {
  const fail = (message: string) => new FormatError(file, `zip directory: ${message}; damaged file?`);
  const { entries, start, end } = directoryOf(file, source);
  if (entries > maxEntries) {
    throw new FormatError(file, `expected at most ${maxEntries} zip entries, got ${entries}`);
  }
  const bytes = readFileRange(source, start, end);
  const fields = new DataView(bytes.buffer);
  let at = 0;
  for (let i = 0; i < entries; i++) {
    if (at + RECORD_BYTES > bytes.length) throw fail(`expected ${entries} records, got ${i}`);
    if (fields.getUint32(at, true) !== 0x02014b50) throw fail(`expected a record at byte ${start + at}`);
    const lengths = [28, 30, 32].map((field) => fields.getUint16(at + field, true));
    const next = at + RECORD_BYTES + lengths.reduce((sum, length) => sum + length, 0);
    if (next > bytes.length) throw fail(`record ${i} runs past the end of the directory`);
    const flags = fields.getUint16(at + 8, true);
    const record: ZipRecord = {
      fileNameRaw: bytes.subarray(at + RECORD_BYTES, at + RECORD_BYTES + lengths[0]!),
      fileName: utf8Text(bytes.subarray(at + RECORD_BYTES, at + RECORD_BYTES + lengths[0]!)),
      generalPurposeBitFlag: flags,
      compressionMethod: fields.getUint16(at + 10, true),
      crc32: fields.getUint32(at + 16, true),
      compressedSize: fields.getUint32(at + 20, true),
      uncompressedSize: fields.getUint32(at + 24, true),
      relativeOffsetOfLocalHeader: fields.getUint32(at + 42, true),
    };
    const reason = faultOf(record);
    if (reason !== null) throw fail(reason);
    yield record;
    at = next;
  }
}

/** What makes a record one that nothing should be read by. */
function faultOf(record: ZipRecord): string | null {
  const { fileName: name, compressionMethod, compressedSize, uncompressedSize } = record;
  if ((record.generalPurposeBitFlag & NAMES_IN_UTF8) === 0 && record.fileNameRaw.some((byte) => byte > 0x7f))
    return 'expected names in UTF-8, got other letters';
  if ((record.generalPurposeBitFlag & ENCRYPTED) !== 0) return 'expected plain data, got encrypted data';
  if (name.includes('\\')) return `invalid characters in fileName: ${name}`;
  if (/^[A-Za-z]:|^\//.test(name)) return `absolute path: ${name}`;
  if (name.split('/').includes('..')) return `invalid relative path: ${name}`;
  if ([compressedSize, uncompressedSize, record.relativeOffsetOfLocalHeader].includes(0xffffffff))
    return 'zip64, which is not read in a browser';
  if (compressionMethod === 0 && compressedSize !== uncompressedSize)
    return `compressed/uncompressed size mismatch for stored file: ${compressedSize} != ${uncompressedSize}`;
  return null;
}

/** Where the directory lies, by the last record of the file, which a comment may follow. */
function directoryOf(file: string, source: SourceFile): { entries: number; start: number; end: number } {
  const from = Math.max(0, source.sizeBytes - END_BYTES - MAX_COMMENT_BYTES);
  const bytes = readFileRange(source, from, source.sizeBytes);
  const fields = new DataView(bytes.buffer);
  let at = bytes.length - END_BYTES;
  while (at >= 0 && fields.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0) {
    throw new FormatError(
      file,
      `expected a zip file with its directory at the end, got ${source.sizeBytes} bytes without one; truncated download: fetch it again`,
    );
  }
  const fail = (message: string) => new FormatError(file, `zip directory: ${message}; damaged file?`);
  const end = from + at;
  const comment = fields.getUint16(at + 20, true);
  if (end + END_BYTES + comment !== source.sizeBytes)
    throw fail(`expected a comment of ${source.sizeBytes - end - END_BYTES} bytes, got ${comment}`);
  const [disk, entries, total] = [4, 8, 10].map((field) => fields.getUint16(at + field, true));
  const [size, start] = [fields.getUint32(at + 12, true), fields.getUint32(at + 16, true)];
  if (disk !== 0 || entries !== total) throw fail('multi-disk zip files are not supported');
  if (entries === 0xffff || size === 0xffffffff || start === 0xffffffff)
    throw fail('zip64, which is not read in a browser');
  const agrees = agreesWithZip64(source, end, entries!, size, start);
  if (!agrees) throw fail('its zip64 record says something else');
  if (start + size > end) throw fail(`expected it before byte ${end}, got bytes ${start} to ${start + size}`);
  return { entries: entries!, start, end: start + size };
}

/** Whether a zip64 record of the end, if there is one, has the same numbers. */
function agreesWithZip64(
  source: SourceFile,
  end: number,
  entries: number,
  size: number,
  start: number,
): boolean {
  if (end < LOCATOR_BYTES) return true;
  const locator = new DataView(readFileRange(source, end - LOCATOR_BYTES, end).buffer);
  if (locator.getUint32(0, true) !== 0x07064b50) return true;
  const at = Number(locator.getBigUint64(8, true));
  if (at + END64_BYTES > end) return false;
  const record = new DataView(readFileRange(source, at, at + END64_BYTES).buffer);
  return (
    record.getUint32(0, true) === 0x06064b50 &&
    record.getUint32(16, true) === 0 &&
    [entries, size, start].every((value, i) => record.getBigUint64(32 + 8 * i, true) === BigInt(value))
  );
}
