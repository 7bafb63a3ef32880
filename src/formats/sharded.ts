/**
 * Checkpoints that lie in several files under one index (`….safetensors.index.json`, `….bin.index.json`).
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { FormatError } from '../errors.ts';
import { locateFile, readFileRange } from './byte-reader.ts';
import type { RawTensor } from './raw-tensor.ts';
import type { TensorFile } from './tensor-file.ts';

const MAX_INDEX_BYTES = 1 << 26;

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
  const { path: absolute, sizeBytes: indexBytes } = locateFile(file);
  if (indexBytes > MAX_INDEX_BYTES) {
    throw new FormatError(file, `expected an index of at most ${MAX_INDEX_BYTES} bytes, got ${indexBytes}`);
  }
  const weightMap = parseIndex(file, Buffer.from(readFileRange(absolute, 0, indexBytes)).toString('utf8'));
  const folder = path.dirname(absolute);
  const shards = new Map<string, TensorFile>();
  for (const shard of new Set(weightMap.values())) {
    const place = path.join(folder, shard);
    if (!existsSync(place)) {
      throw new FormatError(
        file,
        `names the shard "${shard}", which is missing beside it; fetch all files of the model`,
      );
    }
    shards.set(shard, await openShard(place));
  }
  const tensors = new Map<string, RawTensor>();
  for (const [name, shard] of weightMap) {
    const tensor = shards.get(shard)?.tensors.get(name);
    if (tensor === undefined) {
      throw new FormatError(
        file,
        `expected tensor "${name}" in ${shard}, got none; index and shards do not match`,
        {
          tensor: name,
        },
      );
    }
    tensors.set(name, tensor);
  }
  let sizeBytes = 0;
  const metadata = new Map<string, string>();
  for (const [shard, { tensors: held, metadata: labels, sizeBytes: size }] of shards) {
    const stranger = [...held.keys()].find((name) => weightMap.get(name) !== shard);
    if (stranger !== undefined) {
      throw new FormatError(
        file,
        `does not name tensor "${stranger}" of ${shard}; index and shards do not match`,
        {
          tensor: stranger,
        },
      );
    }
    for (const [key, value] of labels) metadata.set(key, value);
    sizeBytes += size;
  }
  return { path: absolute, format: 'sharded', sizeBytes, tensors, metadata, root: null };
}

/** @returns tensor name → file name */
function parseIndex(file: string, text: string): Map<string, string> {
  let index: unknown;
  try {
    index = JSON.parse(text);
  } catch (error) {
    throw new FormatError(file, 'expected a JSON index, got malformed text', { cause: error });
  }
  const map: unknown = isRecord(index) && Object.hasOwn(index, 'weight_map') ? index.weight_map : undefined;
  if (!isRecord(map))
    throw new FormatError(file, 'expected "weight_map", an object of tensor and file names');
  const weightMap = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== 'string' || !isPlainFileName(shard)) {
      throw new FormatError(
        file,
        `tensor "${name}": expected the name of a file in the same folder, got ${JSON.stringify(shard)}`,
      );
    }
    weightMap.set(name, shard);
  }
  if (weightMap.size === 0) throw new FormatError(file, 'expected an index of tensors, got an empty one');
  return weightMap;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Neither a path nor another index, which could name itself. */
function isPlainFileName(name: string): boolean {
  return /^[^/\\:\0]+\.(safetensors|bin|pt|pth|ckpt)$/.test(name) && !name.startsWith('.');
}
