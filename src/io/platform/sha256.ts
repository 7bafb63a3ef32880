/** SHA-256, lower-case hex. Node's; a bundle for the browser takes `sha256.browser.ts` in its place. */
import { createHash, webcrypto } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';

/** A hash of parts that come one after the other; strings count as UTF-8. */
export interface Sha256 {
  update(part: Uint8Array | string): Sha256;
  /** Once, at the end. */
  digest(encoding: 'hex'): string;
}

export function sha256(): Sha256 {
  return createHash('sha256');
}

/** Of one part. */
export const sha256Of = (part: Uint8Array | string): string => sha256().update(part).digest('hex');

/** Files up to this size are hashed whole, beside the main thread. */
const WHOLE_BYTES = 1 << 27;

/**
 * Of a file's bytes, large ones streamed.
 * @throws the system's own error; the signal's reason
 */
export async function sha256OfFile(file: string, sizeBytes: number, signal?: AbortSignal): Promise<string> {
  if (sizeBytes <= WHOLE_BYTES)
    return Buffer.from(await webcrypto.subtle.digest('SHA-256', await readFile(file))).toString('hex');
  const hash = createHash('sha256');
  const source = createReadStream(file, { highWaterMark: 1 << 20 });
  await pipeline(source, hash, signal === undefined ? {} : { signal });
  return hash.digest('hex');
}
