/**
 * PNG files with text in them: 8-bit RGB out, texts in and out. Text that Latin-1 holds goes into `tEXt`, other text
 * into `iTXt`, as PIL does and web UIs read it. Source: W3C PNG specification (third edition), chunks IHDR, IDAT, tEXt, iTXt.
 */
import { FormatError, ShapeError, UsageError } from '../errors.ts';
import { equalBytes, joinBytes, latin1Bytes, latin1Text, utf8Bytes, utf8Text } from '../io/bytes.ts';
import { locateFile } from '../io/file-range.ts';
import { crc32, deflateAside, inflate } from '../io/platform/deflate.ts';
import { writeFileAtomically } from '../io/replace-file.ts';
import { Pace, type Steps } from '../pace.ts';
import { ByteReader } from './byte-reader.ts';
import type { Picture } from './picture.ts';

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
/** A keyword is 1 to 79 Latin-1 characters. */
const KEYWORD = /^[\x20-\x7e\xa1-\xff]{1,79}$/;
/** All texts of a picture together, unpacked: 1 MiB and 64 times the file's size, but never more than 16 MiB. */
const MAX_TEXT_BYTES = 1 << 24;
const FREE_TEXT_BYTES = 1 << 20;
const TEXT_PER_BYTE = 64;
/** Of a picture of 1 GiB in the smallest chunks that programs write. */
const MAX_CHUNKS = 1 << 17;
/** How much of a chunk of pixels is in memory while its checksum is computed. */
const PIECE_BYTES = 1 << 22;

/**
 * Encode a picture.
 * @param texts by keyword, e.g. `parameters`. What PNG cannot hold (NUL, half a character) is written as U+FFFD.
 * @throws {UsageError} for more text than is read again
 * @throws {ShapeError} if the pixels are not width × height × 3
 */
export async function encodePng(
  { width, height, data }: Picture,
  texts: Readonly<Record<string, string>> = {},
): Promise<Uint8Array> {
  if (!(width >= 1 && height >= 1 && data.length === width * height * 3)) {
    throw new ShapeError(`PNG: expected [${height}, ${width}, 3] bytes, got ${data.length}`);
  }
  const header = joinBytes([uint32(width), uint32(height), Uint8Array.of(8, 2, 0, 0, 0)]);
  const chosen = textChunks(texts);
  const rows = await new Pace().run(filtered(data, width * 3, height));
  // Beside the main thread: a picture of 2048 × 2048 takes a second.
  const packed = await deflateAside(rows);
  return joinBytes([
    SIGNATURE,
    chunk('IHDR', header),
    ...chosen,
    chunk('IDAT', packed),
    chunk('IEND', new Uint8Array(0)),
  ]);
}

/** Write a picture as PNG, whole or not at all. @throws as `encodePng` and `writeFileAtomically` */
export async function writePicture(
  file: string,
  picture: Picture,
  texts: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeFileAtomically(file, [await encodePng(picture, texts)]);
}

function chunk(type: string, content: Uint8Array): Uint8Array {
  const body = joinBytes([latin1Bytes(type), content]);
  return joinBytes([uint32(content.length), body, uint32(crc32(body))]);
}

/** PNG puts the highest byte first. */
function uint32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, false);
  return bytes;
}

function textChunks(texts: Readonly<Record<string, string>>): Uint8Array[] {
  const limit = new TextLimit('PNG', MAX_TEXT_BYTES, (message) => new UsageError(message));
  return Object.entries(texts).map(([keyword, text]) => {
    if (!KEYWORD.test(keyword)) throw new Error(`internal: PNG keyword ${JSON.stringify(keyword)}`);
    const { type, content, text: held } = textContent(keyword, text);
    const [readKeyword, readText] = decodeText('PNG', type, content, limit);
    if (readKeyword !== keyword || readText !== held) {
      throw new Error(`internal: PNG text "${keyword}" does not read as it was written`);
    }
    return chunk(type, content);
  });
}

/** Content of a text chunk, and the text that it holds. */
function textContent(keyword: string, text: string): { type: string; content: Uint8Array; text: string } {
  const held = text.replace(/\0|\p{Surrogate}/gu, '\ufffd');
  const latin = latin1Bytes(`${keyword}\0${held}`);
  if (latin1Text(latin.subarray(keyword.length + 1)) === held) {
    return { type: 'tEXt', content: latin, text: held };
  }
  const head = latin1Bytes(`${keyword}\0\0\0\0\0`);
  return { type: 'iTXt', content: joinBytes([head, utf8Bytes(held)]), text: held };
}

/** Rows with the filter that leaves the smallest sum of magnitudes, the usual heuristic. */
function* filtered(data: Uint8Array, stride: number, height: number): Steps<Uint8Array> {
  const out = new Uint8Array(height * (stride + 1));
  const candidate = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    let best = Number.POSITIVE_INFINITY;
    for (let filter = 0; filter < 5; filter++) {
      let cost = 0;
      for (let x = 0; x < stride; x++) {
        const at = y * stride + x;
        const left = x >= 3 ? data[at - 3]! : 0;
        const up = y > 0 ? data[at - stride]! : 0;
        const corner = x >= 3 && y > 0 ? data[at - stride - 3]! : 0;
        const value = (data[at]! - predicted(filter, left, up, corner)) & 255;
        candidate[x] = value;
        cost += value < 128 ? value : 256 - value;
      }
      if (cost >= best) continue;
      best = cost;
      out[y * (stride + 1)] = filter;
      out.set(candidate, y * (stride + 1) + 1);
    }
    yield;
  }
  return out;
}

function predicted(filter: number, left: number, up: number, corner: number): number {
  switch (filter) {
    case 1:
      return left;
    case 2:
      return up;
    case 3:
      return (left + up) >> 1;
    case 4: {
      const [p, q, r] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
      if (p <= q && p <= r) return left;
      return q <= r ? up : corner;
    }
    default:
      return 0;
  }
}

/** Counts the texts of one picture. */
class TextLimit {
  readonly #file: string;
  readonly #allowed: number;
  readonly #error: (message: string) => Error;
  #used = 0;

  constructor(file: string, allowed: number, error: (message: string) => Error) {
    this.#file = file;
    this.#allowed = allowed;
    this.#error = error;
  }

  /** What the next text may take. */
  get left(): number {
    return this.#allowed - this.#used;
  }

  use(bytes: number): void {
    if (bytes > this.left) throw this.exceeded(`${this.#used + bytes}`);
    this.#used += bytes;
  }

  exceeded(got: string): Error {
    return this.#error(
      `${this.#file}: expected texts of at most ${this.#allowed} bytes together, got ${got}`,
    );
  }
}

/**
 * The texts of a PNG file by keyword (`tEXt`, `zTXt` and `iTXt`); pixels are not looked at.
 * @throws {FormatError} if it is no PNG, is cut off, a chunk's checksum is wrong, or its texts unpack to too much
 */
export async function readPngTexts(file: string): Promise<Map<string, string>> {
  const source = locateFile(file);
  const { sizeBytes } = source;
  const reader = ByteReader.ofFile(file, source, 'PNG', 0, sizeBytes);
  if (sizeBytes < 8 || !equalBytes(SIGNATURE, reader.bytes(8))) {
    throw new FormatError(file, 'expected a PNG picture, got something else');
  }
  const allowed = Math.min(MAX_TEXT_BYTES, FREE_TEXT_BYTES + TEXT_PER_BYTE * sizeBytes);
  const limit = new TextLimit(
    `${sizeBytes} bytes of PNG`,
    allowed,
    (message) => new FormatError(file, message),
  );
  const pace = new Pace();
  const texts = new Map<string, string>();
  for (let chunks = 0; chunks < MAX_CHUNKS; chunks++) {
    if (reader.remaining < 12) throw new FormatError(file, 'PNG ends before its end chunk; cut off?');
    const length = reader.u32BigEndian();
    if (reader.remaining < length + 8) {
      throw new FormatError(file, 'PNG chunk runs past the end; cut off?');
    }
    const typeBytes = reader.bytes(4);
    const type = latin1Text(typeBytes);
    const isText = type === 'tEXt' || type === 'zTXt' || type === 'iTXt';
    if (isText && length > limit.left) throw limit.exceeded(`a packed one of ${length}`);
    let crc = crc32(typeBytes);
    let content = new Uint8Array(0);
    for (let done = 0; done < length; done += content.length) {
      content = new Uint8Array(reader.bytes(isText ? length : Math.min(PIECE_BYTES, length - done)));
      crc = crc32(content, crc);
      await pace.turn();
    }
    if (crc !== reader.u32BigEndian()) {
      throw new FormatError(file, 'PNG chunk has a wrong checksum; damaged?');
    }
    if (type === 'IEND') return texts;
    if (isText) {
      const [keyword, text] = decodeText(file, type, content, limit);
      texts.set(keyword, text);
    }
  }
  throw new FormatError(file, `expected at most ${MAX_CHUNKS} PNG chunks, got more`);
}

function decodeText(file: string, type: string, content: Uint8Array, limit: TextLimit): [string, string] {
  const end = content.indexOf(0);
  if (end < 1) throw new FormatError(file, `PNG ${type} chunk has no keyword`);
  const keyword = latin1Text(content.subarray(0, end));
  const unpacked = (packed: Uint8Array): Uint8Array => {
    try {
      // zlib takes no limit of zero; the sum is checked below.
      return inflate(packed, limit.left + 1);
    } catch (cause) {
      if (cause instanceof RangeError) throw limit.exceeded('more when unpacking');
      throw new FormatError(file, `PNG text "${keyword}" cannot be unpacked`, { cause });
    }
  };
  const [bytes, decode] = textBytes();
  limit.use(bytes.length);
  return [keyword, decode(bytes)];

  function textBytes(): [Uint8Array, (bytes: Uint8Array) => string] {
    if (type === 'tEXt') return [content.subarray(end + 1), latin1Text];
    if (type === 'zTXt') return [unpacked(content.subarray(end + 2)), latin1Text];
    const language = content.indexOf(0, end + 3);
    const translated = language < 0 ? -1 : content.indexOf(0, language + 1);
    if (translated < 0) throw new FormatError(file, `PNG text "${keyword}" is cut off`);
    const text = content.subarray(translated + 1);
    return [content[end + 1] === 1 ? unpacked(text) : text, utf8Text];
  }
}
