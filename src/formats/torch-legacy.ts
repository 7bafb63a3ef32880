/**
 * Torch files before PyTorch 1.6: five pickles one after the other (magic number, protocol, system, content,
 * storage keys), then each storage as an element count and its bytes. Layout: torch/serialization.py, `_legacy_load`.
 */

import { readFileRange, type SourceFile } from '../io/file-range.ts';
import { Pace } from '../pace.ts';
import { ByteReader } from './byte-reader.ts';
import { unpickle, unpickleSteps } from './pickle.ts';
import { PLAIN_DATA } from './pickle-host.ts';
import { describe, type PickleValue } from './pickle-value.ts';
import type { TensorFile } from './tensor-file.ts';
import type { ByteRange, TensorStorage } from './tensor-storage.ts';
import { torchHost } from './torch-host.ts';
import { flattenTensors } from './torch-names.ts';
import type { FindStorage, StorageRequest } from './torch-storage.ts';
import { plainTree } from './torch-value.ts';

const MAGIC_NUMBER = 0x1950a86a20f9469cfc6cn;
const PROTOCOL_VERSION = 1001;

/** A storage whose place in the file is known only after the pickle that refers to it has been read. */
class PendingStorage implements TensorStorage {
  readonly request: StorageRequest;
  readonly opened: SourceFile;
  range: ByteRange | null = null;

  constructor(request: StorageRequest, opened: SourceFile) {
    this.request = request;
    this.opened = opened;
  }

  get sizeBytes(): number {
    return this.request.sizeBytes;
  }

  read(begin: number, end: number): Uint8Array {
    if (this.range === null) throw new Error('internal: legacy storage read before it was placed');
    return readFileRange(this.opened, this.range.offset + begin, this.range.offset + end);
  }
}

/**
 * Open a legacy torch file. Reads its pickles; tensors stay in the file.
 * @throws {FormatError} if it is unsafe, damaged or truncated
 */
export async function readTorchLegacy(file: string, source: SourceFile): Promise<TensorFile> {
  const reader = ByteReader.ofFile(file, source, 'legacy torch file', 0, source.sizeBytes);
  const magic = unpickle(reader, PLAIN_DATA);
  if (magic !== MAGIC_NUMBER) throw reader.error(`expected the torch magic number, got ${printed(magic)}`);
  const protocol = unpickle(reader, PLAIN_DATA);
  if (protocol !== PROTOCOL_VERSION) {
    throw reader.error(`expected torch protocol ${PROTOCOL_VERSION}, got ${printed(protocol)}`);
  }
  const system = unpickle(reader, PLAIN_DATA);
  if (!(system instanceof Map) || system.get('little_endian') !== true) {
    throw reader.error('expected a file written in little-endian order, got another');
  }

  const storages = new Map<string, PendingStorage>();
  const findStorage: FindStorage = (request, fail) => {
    const known = storages.get(request.key);
    if (known === undefined) {
      // The bytes follow later in the file: a count that it has no room for is refused at once.
      if (request.sizeBytes > source.sizeBytes) {
        throw fail(
          `storage "${request.key}": expected ${request.sizeBytes} bytes, the file has ${source.sizeBytes}`,
        );
      }
      const storage = new PendingStorage(request, source);
      storages.set(request.key, storage);
      return storage;
    }
    if (known.request.count !== request.count || known.request.dtype !== request.dtype) {
      throw fail(`storage "${request.key}" is used with two sizes or dtypes`);
    }
    return known;
  };
  const pace = new Pace();
  const content = await pace.run(unpickleSteps(reader, torchHost(findStorage)));
  placeStorages(reader, source, storages, unpickle(reader, PLAIN_DATA));
  if (reader.remaining > 0)
    throw reader.error(`expected the end of the file, got ${reader.remaining} more bytes`);

  const root = plainTree(file, content, source.sizeBytes);
  await pace.turn();
  return {
    path: source.path,
    format: 'torch-legacy',
    sizeBytes: source.sizeBytes,
    tensors: flattenTensors(file, root, source.sizeBytes),
    metadata: new Map(),
    root,
  };
}

/** A scalar as it is, the kind of anything else: what a container holds is the file's to choose. */
function printed(value: PickleValue | undefined): string {
  if (typeof value === 'string') return JSON.stringify(value);
  return typeof value === 'object' ? describe(value) : String(value);
}

function placeStorages(
  reader: ByteReader,
  source: SourceFile,
  storages: ReadonlyMap<string, PendingStorage>,
  keys: PickleValue,
): void {
  if (!Array.isArray(keys)) throw reader.error('expected the list of storage keys, got something else');
  for (const key of keys) {
    const storage = typeof key === 'string' ? storages.get(key) : undefined;
    if (storage === undefined || storage.range !== null) {
      throw reader.error(`storage key ${printed(key)}: expected each storage in use once, got another key`);
    }
    const count = reader.i64();
    if (count !== BigInt(storage.request.count)) {
      throw reader.error(
        `storage "${key}": expected ${storage.request.count} elements, got a record of ${count}`,
      );
    }
    storage.range = { file: source.path, offset: reader.position, length: storage.sizeBytes };
    reader.skip(storage.sizeBytes);
  }
  for (const [key, { range }] of storages) {
    if (range === null) throw reader.error(`storage "${key}": its bytes are not in the file`);
  }
}
