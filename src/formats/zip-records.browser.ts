/** PyTorch's zip files are not read in a browser yet. The same names as in `zip-records.ts`. */
import { FormatError } from '../errors.ts';
import type { SourceFile } from '../io/file-range.ts';
import type { ZipRecord } from './zip-records.ts';

/** @throws {FormatError} always */
// biome-ignore lint/correctness/useYield: what it stands for yields
export async function* zipRecords(
  file: string,
  _source: SourceFile,
  _maxEntries: number,
): AsyncGenerator<ZipRecord> {
  throw new FormatError(
    file,
    'a PyTorch file, which a browser does not read yet; convert it to safetensors first',
  );
}
