/** Deflate streams and the checksum of zip and PNG. Node's; a bundle for the browser takes `deflate.browser.ts` in its place. */
import { promisify } from 'node:util';
import zlib from 'node:zlib';

/** @param before checksum of the bytes in front of these; default: none are */
export function crc32(bytes: Uint8Array, before?: number): number {
  return zlib.crc32(bytes, before);
}

/**
 * A bare deflate stream, unpacked.
 * @throws {RangeError} once it holds more than `maxBytes` (≥ 1); another error if it is no such stream
 */
export function inflateRaw(packed: Uint8Array, maxBytes: number): Uint8Array {
  return zlib.inflateRawSync(packed, { maxOutputLength: maxBytes });
}

/** The same with a zlib header and checksum around it. @throws as `inflateRaw` */
export function inflate(packed: Uint8Array, maxBytes: number): Uint8Array {
  return zlib.inflateSync(packed, { maxOutputLength: maxBytes });
}

const packedAside = promisify<Uint8Array, { level: number }, Buffer>(zlib.deflate);

/** A zlib stream, made beside the main thread, as small as can be. */
export function deflateAside(bytes: Uint8Array): Promise<Uint8Array> {
  return packedAside(bytes, { level: 9 });
}
