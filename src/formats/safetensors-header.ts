/**
 * The rules of a safetensors header, for reading one and for judging one that is about to be written: JSON of the
 * right form, distinct names, known dtypes, shapes that need as many bytes as they have, no gap and no overlap.
 */
import type { EdloraError } from '../errors.ts';
import type { Steps } from '../pace.ts';
import { type DType, dtypeWidth, isDType } from './dtype.ts';
import { JsonScanner } from './json-scanner.ts';
import { elementCount, MAX_NAME_CHARACTERS, MAX_RANK } from './raw-tensor.ts';

/** The reference library's own limit for headers. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Most tensors of a file, or of an index. The largest language models have some 100,000. */
export const MAX_TENSORS = 1 << 17;

/** Most keys of metadata. Trainers write some 80. */
const MAX_METADATA_KEYS = 1 << 16;

type MakeError = (message: string) => EdloraError;

/** One tensor's entry: dtype, shape and its bytes `[begin, end)` within the data part. */
export interface HeaderEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order in which the header names them. */
  readonly entries: readonly HeaderEntry[];
  readonly metadata: ReadonlyMap<string, string>;
  /** Where the last tensor ends within the data part. */
  readonly dataEnd: number;
}

/**
 * Parse and check a header.
 * @param text  the header, decoded
 * @param error makes an error that names the file
 * @throws what `error` makes, for anything but one JSON object of well-formed entries with distinct names that
 *   follow each other from byte 0
 */
export function* parseSafetensorsHeader(text: string, error: MakeError): Steps<SafetensorsHeader> {
  const scanner = new JsonScanner(text, 'header', error);
  const entries: HeaderEntry[] = [];
  let metadata: ReadonlyMap<string, string> = new Map();
  // White space in front is the reference library's own leniency.
  if (scanner.peek() !== '{') throw error('expected a header that begins with "{"');
  yield* scanner.object(MAX_TENSORS, function* (name) {
    if (name === '__metadata__') metadata = yield* scanMetadata(scanner);
    else entries.push(yield* scanEntry(scanner, name, error));
  });
  scanner.end();
  yield;
  return { entries, metadata, dataEnd: checkCoverage(entries, error) };
}

function* scanMetadata(scanner: JsonScanner): Steps<Map<string, string>> {
  const metadata = new Map<string, string>();
  if (scanner.peek() === 'n') {
    // null, as the reference library allows.
    yield* scanner.skip(0);
    return metadata;
  }
  yield* scanner.object(MAX_METADATA_KEYS, (key) => {
    metadata.set(key, scanner.string());
  });
  return metadata;
}

/** Fields of an entry: the three that count, and what other programs add. */
const MAX_FIELDS = 16;

function* scanEntry(scanner: JsonScanner, name: string, error: MakeError): Steps<HeaderEntry> {
  if (name.length > MAX_NAME_CHARACTERS) {
    throw error(
      `tensor "${name}": expected a name of at most ${MAX_NAME_CHARACTERS} characters, got ${name.length}`,
    );
  }
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  yield* scanner.object(MAX_FIELDS, (field) => {
    if (field === 'dtype') dtype = scanner.string();
    else if (field === 'shape') shape = scanner.wholeNumbers(MAX_RANK);
    else if (field === 'data_offsets') offsets = scanner.wholeNumbers(MAX_RANK);
    // The reference library reads past fields that it does not know.
    else return scanner.skip(MAX_FIELDS);
    return undefined;
  });
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    const missing = dtype === undefined ? 'dtype' : shape === undefined ? 'shape' : 'data_offsets';
    throw error(`tensor "${name}": expected dtype, shape and data_offsets, got no ${missing}`);
  }
  if (!isDType(dtype)) {
    throw error(`tensor "${name}": expected a known dtype, got "${dtype}"`);
  }
  const [begin, end, ...more] = offsets;
  if (begin === undefined || end === undefined || more.length > 0 || begin > end) {
    throw error(`tensor "${name}": expected data_offsets [begin, end], got [${offsets.join(', ')}]`);
  }
  const needed = elementCount(shape) * dtypeWidth(dtype);
  if (needed !== end - begin) {
    const needs = Number.isNaN(needed) ? 'more than any file holds' : `${needed} bytes`;
    throw error(
      `tensor "${name}": ${dtype} [${shape.join(', ')}] needs ${needs}, data_offsets give ${end - begin}`,
    );
  }
  return { name, dtype, shape, begin, end };
}

/** The tensors must follow each other without gap or overlap from byte 0. @returns where the last one ends */
function checkCoverage(entries: readonly HeaderEntry[], error: MakeError): number {
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
