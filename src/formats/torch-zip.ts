/**
 * Torch files since PyTorch 1.6: a zip with one top folder that holds `data.pkl` and one entry per storage
 * under `data/`. Layout: torch/serialization.py, caffe2/serialize/inline_container.cc.
 */
import { FormatError } from '../errors.ts';
import { latin1Text } from '../io/bytes.ts';
import type { SourceFile } from '../io/file-range.ts';
import { Pace } from '../pace.ts';
import { ByteReader } from './byte-reader.ts';
import { unpickleSteps } from './pickle.ts';
import type { TensorFile } from './tensor-file.ts';
import type { TensorStorage } from './tensor-storage.ts';
import { torchHost } from './torch-host.ts';
import { flattenTensors } from './torch-names.ts';
import type { FindStorage } from './torch-storage.ts';
import { plainTree } from './torch-value.ts';
import { readZipDirectory, readZipEntry, type ZipEntry, zipStorage } from './zip-archive.ts';

export const MAX_PICKLE_BYTES = 1 << 26;

/** A deflated pickle that expands further is not text about tensors. */
const MAX_PICKLE_RATIO = 100;

/** Files up to this size have the checksums of stored entries compared when opened; other storages when first used. */
const EAGER_CHECK_BYTES = 1 << 28;

/**
 * Open a torch zip. Reads the directory and the pickle; tensors stay in the file.
 * @throws {FormatError} if it is unsafe, damaged, or no torch file
 */
export async function readTorchZip(file: string, source: SourceFile): Promise<TensorFile> {
  const entries = await readZipDirectory(file, source);
  const top = topFolder(file, entries);
  refuseOtherKinds(file, source, entries, top);
  const pickle = entries.get(`${top}data.pkl`)!;
  const { sizeBytes, compressed, compressedBytes } = pickle;
  if (sizeBytes > MAX_PICKLE_BYTES || (compressed && sizeBytes > compressedBytes * MAX_PICKLE_RATIO)) {
    throw new FormatError(
      file,
      `data.pkl: expected a description of tensors, got ${sizeBytes} bytes in ${compressedBytes}; refused as too large`,
    );
  }
  const storages = new Map<string, TensorStorage>();
  const findStorage: FindStorage = ({ key, sizeBytes: needed }, fail) => {
    const entry = entries.get(`${top}data/${key}`);
    if (entry === undefined)
      throw fail(`storage ${JSON.stringify(key)} has no entry data/${key} in the file`);
    if (entry.sizeBytes !== needed) {
      throw fail(`storage "${key}": expected an entry of ${needed} bytes, got ${entry.sizeBytes}`);
    }
    let storage = storages.get(key);
    if (storage === undefined) {
      storage = zipStorage(file, source, entry);
      storages.set(key, storage);
    }
    return storage;
  };
  const reader = ByteReader.ofBytes(file, 'data.pkl', readZipEntry(file, source, pickle));
  const pace = new Pace();
  const content = await pace.run(unpickleSteps(reader, torchHost(findStorage), source.sizeBytes));
  const root = plainTree(file, content, source.sizeBytes);
  await pace.turn();
  if (source.sizeBytes <= EAGER_CHECK_BYTES) {
    // A deflated storage has to be inflated for that: it is checked when it is read.
    for (const storage of storages.values()) {
      if (storage.range !== null && storage.verify !== undefined) await pace.run(storage.verify());
      await pace.turn();
    }
  }
  return {
    path: source.path,
    format: 'torch-zip',
    sizeBytes: source.sizeBytes,
    tensors: flattenTensors(file, root, source.sizeBytes),
    metadata: new Map(),
    root,
  };
}

/** The one folder, with its slash, in which everything lies. */
function topFolder(file: string, entries: ReadonlyMap<string, ZipEntry>): string {
  const names = [...entries.keys()];
  const pickle = names.find((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickle === undefined) {
    throw new FormatError(
      file,
      'expected a torch file, got a zip archive without data.pkl in a top folder; if it holds a weight file, unpack it first',
    );
  }
  const top = pickle.slice(0, -'data.pkl'.length);
  const stranger = names.find((name) => !name.startsWith(top));
  if (stranger !== undefined) {
    throw new FormatError(file, `expected every zip entry inside "${top}", got "${stranger}"`);
  }
  return top;
}

function refuseOtherKinds(
  file: string,
  source: SourceFile,
  entries: ReadonlyMap<string, ZipEntry>,
  top: string,
): void {
  if (
    entries.has(`${top}constants.pkl`) ||
    [...entries.keys()].some((name) => name.startsWith(`${top}code/`))
  ) {
    throw new FormatError(
      file,
      'expected weights, got a TorchScript archive, which contains program code; save its state_dict() instead',
    );
  }
  const order = entries.get(`${top}byteorder`);
  if (order === undefined) return;
  const text = order.sizeBytes > 16 ? '' : latin1Text(readZipEntry(file, source, order));
  if (text !== 'little') {
    throw new FormatError(file, `expected little-endian numbers, got byte order ${JSON.stringify(text)}`);
  }
}
