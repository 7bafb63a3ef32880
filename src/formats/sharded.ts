/**
 * Checkpoints that lie in several files under one index (`….safetensors.index.json`, `….bin.index.json`).
 */

import { FormatError } from '../errors.ts';
import { exists } from '../io/file-info.ts';
import { locateFile, readFileRange } from '../io/file-range.ts';
import * as path from '../io/platform/paths.ts';
import { Pace, type Steps } from '../pace.ts';
import { JsonScanner } from './json-scanner.ts';
import { MAX_NAME_CHARACTERS, type RawTensor } from './raw-tensor.ts';
import { MAX_TENSORS } from './safetensors-header.ts';
import type { TensorFile } from './tensor-file.ts';

const MAX_INDEX_BYTES = 1 << 26;

/** Real ones have two: metadata and weight_map. */
const MAX_INDEX_FIELDS = 256;

/** No file system has longer ones. */
const MAX_FILE_NAME_CHARACTERS = 255;

/**
 * Open all shards that an index names as one file. Tensors come in the index's order.
 * @param file      path of the index
 * @param openShard opens one of the files that it names
 * @throws {FormatError} if the index is malformed, points outside its own folder, or does not match the shards
 */
export async function openShards(
  file: string,
  openShard: (file: string) => Promise<TensorFile>,
): Promise<TensorFile> {
  const source = locateFile(file);
  const { path: absolute, sizeBytes: indexBytes } = source;
  if (indexBytes > MAX_INDEX_BYTES) {
    throw new FormatError(file, `expected an index of at most ${MAX_INDEX_BYTES} bytes, got ${indexBytes}`);
  }
  const weightMap = await new Pace().run(
    parseIndex(file, decodeIndex(file, readFileRange(source, 0, indexBytes))),
  );
  const folder = path.dirname(absolute);
  const namesByShard = new Map<string, string[]>();
  for (const [name, shard] of weightMap) {
    const names = namesByShard.get(shard);
    if (names === undefined) namesByShard.set(shard, [name]);
    else names.push(name);
  }
  for (const shard of namesByShard.keys()) {
    if (exists(path.join(folder, shard))) continue;
    throw new FormatError(
      file,
      `names the shard "${shard}", which is missing beside it; fetch all files of the model`,
    );
  }
  let sizeBytes = 0;
  const metadata = new Map<string, string>();
  const found = new Map<string, RawTensor>();
  for (const [shard, names] of namesByShard) {
    const opened = await openShard(path.join(folder, shard));
    // At once, so that a shard of another model costs one opening.
    takeTensors(file, shard, opened, names, found);
    for (const [key, value] of opened.metadata) metadata.set(key, value);
    sizeBytes += opened.sizeBytes;
  }
  const tensors = new Map<string, RawTensor>();
  for (const name of weightMap.keys()) tensors.set(name, found.get(name)!);
  return { path: absolute, format: 'sharded', sizeBytes, tensors, metadata, root: null };
}

/** Put the tensors of one shard into `found`: exactly those that the index names for it. */
function takeTensors(
  file: string,
  shard: string,
  { tensors }: TensorFile,
  names: readonly string[],
  found: Map<string, RawTensor>,
): void {
  const expected = new Set(names);
  const fail = (tensor: string, message: string) =>
    new FormatError(file, `${message}; index and shards do not match`, { tensor });
  for (const name of names) {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw fail(name, `expected tensor "${name}" in ${shard}, got none`);
    found.set(name, tensor);
  }
  for (const name of tensors.keys()) {
    if (!expected.has(name)) throw fail(name, `does not name tensor "${name}" of ${shard}`);
  }
}

function decodeIndex(file: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new FormatError(file, 'expected a JSON index in UTF-8, got other bytes', { cause: error });
  }
}

/** @returns tensor name → file name */
function* parseIndex(file: string, text: string): Steps<Map<string, string>> {
  const error = (message: string) => new FormatError(file, message);
  const scanner = new JsonScanner(text, 'index', error);
  const weightMap = new Map<string, string>();
  let mapped = false;
  yield* scanner.object(MAX_INDEX_FIELDS, (field) => {
    if (field !== 'weight_map' || scanner.peek() !== '{') return scanner.skip(MAX_TENSORS);
    mapped = true;
    return scanner.object(MAX_TENSORS, (name) => {
      const shard = scanner.string();
      if (name.length > MAX_NAME_CHARACTERS || !isPlainFileName(shard)) {
        throw error(
          `tensor "${name}": expected a name of at most ${MAX_NAME_CHARACTERS} characters and that of a file in the same folder, got ${JSON.stringify(shard)}`,
        );
      }
      weightMap.set(name, shard);
    });
  });
  scanner.end();
  if (!mapped) throw error('expected "weight_map", an object of tensor and file names');
  if (weightMap.size === 0) throw error('expected an index of tensors, got an empty one');
  return weightMap;
}

/** Neither a path nor another index, which could name itself. */
function isPlainFileName(name: string): boolean {
  return (
    name.length <= MAX_FILE_NAME_CHARACTERS &&
    /^[^/\\:\0]+\.(safetensors|bin|pt|pth|ckpt)$/.test(name) &&
    !name.startsWith('.')
  );
}
