/** What a LoRA file says of itself in its safetensors header, in the words that other tools display and check. */

import { FormatError } from '../errors.ts';
import type { RawTensor } from '../formats/raw-tensor.ts';
import { layOutSafetensors, tensorChunks } from '../formats/safetensors.ts';
import { readFileRange } from '../io/file-range.ts';
import { open } from '../io/platform/disk.ts';
import { freshBytes } from '../io/platform/machine.ts';
import { sha256 } from '../io/platform/sha256.ts';
import { Pace } from '../pace.ts';

/** The stretch of a file that web interfaces used to know it by. */
const LEGACY_BEGIN = 0x100000;
const LEGACY_END = 0x110000;

/** How much of a file is hashed at a time. */
const PIECE_BYTES = 1 << 20;

export interface LoraDescription {
  /** Shown by model browsers. */
  readonly title: string;
  /** Ranks of the layers. */
  readonly ranks: Iterable<number>;
  /** Titles of the inputs. */
  readonly mergedFrom?: readonly string[];
  /** Words that call the concepts. */
  readonly triggerWords?: readonly string[];
}

/** The `ss_*` keys that sd-scripts writes at least, for plain LoRA of SD 1.x with alpha = rank. */
export function networkMetadata({ ranks }: LoraDescription): Record<string, string> {
  const distinct = new Set(ranks);
  const dim = distinct.size === 1 ? String([...distinct][0]) : 'Dynamic';
  return {
    ss_v2: 'False',
    ss_base_model_version: 'sd_v1',
    ss_network_module: 'networks.lora',
    ss_network_dim: dim,
    ss_network_alpha: dim,
    ss_network_args: '{}',
  };
}

/** ModelSpec 1.0.1, what it requires of a LoRA and what is known. No date: equal inputs give equal files. */
export function modelspecMetadata({
  title,
  mergedFrom,
  triggerWords,
}: LoraDescription): Record<string, string> {
  return {
    'modelspec.sai_model_spec': '1.0.1',
    'modelspec.architecture': 'stable-diffusion-v1/lora',
    'modelspec.implementation': 'diffusers',
    'modelspec.title': title,
    ...(mergedFrom === undefined || mergedFrom.length === 0
      ? {}
      : { 'modelspec.merged_from': mergedFrom.join(', ') }),
    ...(triggerWords === undefined || triggerWords.length === 0
      ? {}
      : { 'modelspec.trigger_phrase': triggerWords.join(' ') }),
  };
}

/**
 * The two hashes by which web interfaces know a LoRA: SHA-256 of everything after the header, and the first 8 digits of
 * that of 64 KiB at 1 MiB (which covers the header; sd-scripts takes it from a copy with `ss_*` metadata only).
 * Source: kohya-ss/sd-scripts@48d368fa, library/train_util.py (precalculate_safetensors_hashes).
 * @param signal its reason is thrown once it is aborted
 */
export async function sshsHashes(
  file: string,
  signal?: AbortSignal,
): Promise<{ modelHash: string; legacyHash: string }> {
  const handle = await open(file).catch((cause: unknown) => {
    throw new FormatError(file, 'cannot be read', { cause });
  });
  const model = sha256();
  let sizeBytes: number;
  try {
    sizeBytes = (await handle.stat()).size;
    if (sizeBytes < 8) throw new FormatError(file, `expected a safetensors file, got ${sizeBytes} bytes`);
    const length = freshBytes(8);
    await handle.read(length, 0, 8, 0);
    const piece = freshBytes(PIECE_BYTES);
    for (let at = 8 + Number(new DataView(length.buffer).getBigUint64(0, true)); at < sizeBytes; ) {
      const { bytesRead } = await handle.read(piece, 0, piece.length, at);
      signal?.throwIfAborted();
      if (bytesRead === 0) break;
      model.update(piece.subarray(0, bytesRead));
      at += bytesRead;
    }
  } finally {
    await handle.close();
  }
  const [begin, end] = [Math.min(LEGACY_BEGIN, sizeBytes), Math.min(LEGACY_END, sizeBytes)];
  const legacy = sha256().update(begin < end ? readFileRange(file, begin, end) : new Uint8Array());
  return { modelHash: model.digest('hex'), legacyHash: legacy.digest('hex').slice(0, 8) };
}

/**
 * The same two hashes of a file not yet written, which would hold these tensors and, as sd-scripts defines them, the
 * network's metadata alone.
 */
export async function sshsHashesOf(
  tensors: Iterable<RawTensor>,
  network: Readonly<Record<string, string>>,
  pace: Pace = new Pace(),
): Promise<{ modelHash: string; legacyHash: string }> {
  const { head, order } = await pace.run(layOutSafetensors('hash', tensors, network));
  const model = sha256();
  const legacy = sha256();
  let at = 0;
  const hash = (bytes: Uint8Array): void => {
    const [from, to] = [Math.max(0, LEGACY_BEGIN - at), Math.min(bytes.length, LEGACY_END - at)];
    if (from < to) legacy.update(bytes.subarray(from, to));
    at += bytes.length;
  };
  hash(head);
  for (const tensor of order) {
    for (const chunk of tensorChunks(tensor)) {
      model.update(chunk);
      hash(chunk);
      await pace.turn();
    }
  }
  return { modelHash: model.digest('hex'), legacyHash: legacy.digest('hex').slice(0, 8) };
}
