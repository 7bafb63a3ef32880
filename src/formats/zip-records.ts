/**
 * The records of a zip file's directory, as they stand there. Reading them is yauzl's work, which needs Node; a bundle for the
 * browser takes `zip-records.browser.ts` in its place.
 */
import yauzl from 'yauzl';
import { FormatError } from '../errors.ts';
import { readFileRange, type SourceFile } from '../io/file-range.ts';
import { nextTurn } from '../io/platform/machine.ts';

/** What is declared of an entry; nothing of it is checked against the rest of the file. */
export interface ZipRecord {
  readonly fileName: string;
  readonly fileNameRaw: Uint8Array;
  readonly compressionMethod: number;
  readonly compressedSize: number;
  readonly uncompressedSize: number;
  readonly crc32: number;
  readonly generalPurposeBitFlag: number;
  readonly relativeOffsetOfLocalHeader: number;
}

/**
 * One record after the other.
 * @throws {FormatError} if there is no directory, it is damaged, a name leads outside, or there are more than `maxEntries`
 */
export async function* zipRecords(
  file: string,
  source: SourceFile,
  maxEntries: number,
): AsyncGenerator<ZipRecord> {
  const zip = await onArchive(file, source, () =>
    yauzl.fromRandomAccessReaderPromise(new DirectoryReader(source), source.sizeBytes, {
      strictFileNames: true,
      autoClose: false,
    }),
  );
  try {
    if (zip.entryCount > maxEntries) {
      throw new FormatError(file, `expected at most ${maxEntries} zip entries, got ${zip.entryCount}`);
    }
    const records = zip.eachEntry();
    for (;;) {
      const next = await onArchive(file, source, () => records.next());
      if (next.done === true) return;
      yield next.value;
    }
  } finally {
    zip.close();
  }
}

const WINDOW_BYTES = 1 << 18;

/**
 * How yauzl reads the file: in windows, holding no descriptor, and with places outside the file as errors
 * (its own reader lets a position of 2^62 escape as an uncaught exception).
 */
class DirectoryReader extends yauzl.RandomAccessReader {
  readonly #source: SourceFile;
  #window: Uint8Array = new Uint8Array(0);
  #windowStart = 0;

  constructor(source: SourceFile) {
    super();
    this.#source = source;
  }

  override read(
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null, bytesRead?: number) => void,
  ): void {
    try {
      buffer.set(this.#bytes(position, length), offset);
    } catch (error) {
      void nextTurn().then(() => callback(error instanceof Error ? error : new Error(String(error))));
      return;
    }
    void nextTurn().then(() => callback(null, length));
  }

  #bytes(position: number, length: number): Uint8Array {
    const end = position + length;
    if (!(end <= this.#source.sizeBytes)) {
      throw new Error(`expected bytes up to ${end}, got a file of ${this.#source.sizeBytes}`);
    }
    if (position < this.#windowStart || end > this.#windowStart + this.#window.length) {
      const windowEnd = Math.min(this.#source.sizeBytes, position + Math.max(length, WINDOW_BYTES));
      this.#window = readFileRange(this.#source, position, windowEnd);
      this.#windowStart = position;
    }
    return this.#window.subarray(position - this.#windowStart, end - this.#windowStart);
  }
}

/** Run one step of yauzl; its errors in our form. */
async function onArchive<T>(file: string, source: SourceFile, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (message.startsWith('End of central directory record signature not found')) {
      throw new FormatError(
        file,
        `expected a zip file with its directory at the end, got ${source.sizeBytes} bytes without one; truncated download: fetch it again`,
        { cause: error },
      );
    }
    throw new FormatError(file, `zip directory: ${message}; damaged file?`, { cause: error });
  }
}
