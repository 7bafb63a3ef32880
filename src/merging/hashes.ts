/** The names by which web interfaces and model sites know a file. */

import { sshsHashes } from '../adapters/metadata.ts';
import { FormatError } from '../errors.ts';
import { hashFile } from '../formats/file-hash.ts';
import { openTensorFile } from '../formats/open-tensor-file.ts';
import { infoOf } from '../io/file-info.ts';
import { readFileRange } from '../io/file-range.ts';
import { sha256Of } from '../io/platform/sha256.ts';

export interface FileHashes {
  /** Of the whole file, lower-case hex. */
  readonly sha256: string;
  /** First 10 digits of it (A1111's model hash, Civitai's AutoV2). */
  readonly autoV2: string;
  /** First 8 digits of the SHA-256 of 64 KiB at 1 MiB (AutoV1, A1111's first model hash). */
  readonly autoV1: string;
  /** First 12 digits of `sshsModel` (Civitai's AutoV3); `null` where the file is no safetensors. */
  readonly autoV3: string | null;
  /** SHA-256 of everything after the safetensors header. */
  readonly sshsModel: string | null;
}

/** Hash a file; it is read twice. @throws {FormatError} if it cannot be read; the signal's reason */
export async function fileHashes(file: string, signal?: AbortSignal): Promise<FileHashes> {
  const sizeBytes = infoOf(file)?.size;
  if (sizeBytes === undefined) throw new FormatError(file, 'no such file');
  const sha256 = await hashFile(file, signal);
  const stretch = [0x100000, 0x110000].map((at) => Math.min(at, sizeBytes)) as [number, number];
  const old = stretch[0] < stretch[1] ? readFileRange(file, ...stretch) : new Uint8Array();
  const isSafetensors = (await openTensorFile(file).catch(() => null))?.format === 'safetensors';
  const sshsModel = isSafetensors ? (await sshsHashes(file, signal)).modelHash : null;
  return {
    sha256,
    autoV1: sha256Of(old).slice(0, 8),
    autoV2: sha256.slice(0, 10),
    autoV3: sshsModel === null ? null : sshsModel.slice(0, 12),
    sshsModel,
  };
}
