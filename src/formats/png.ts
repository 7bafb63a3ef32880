/**
 * PNG files with text in them: 8-bit RGB out, texts in and out. Text that Latin-1 holds goes into `tEXt`, other text
 * into `iTXt`, as PIL does and web UIs read it. Source: W3C PNG specification (third edition), chunks IHDR, IDAT, tEXt, iTXt.
 */
import { readFile } from 'node:fs/promises';
import { crc32, deflateSync, inflateSync } from 'node:zlib';
import { FormatError } from '../errors.ts';
import type { Picture } from './picture.ts';

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** A keyword is 1 to 79 Latin-1 characters. */
const KEYWORD = /^[\x20-\x7e\xa1-\xff]{1,79}$/;
/** Text longer than this is not read. */
const MAX_TEXT_BYTES = 16 << 20;

/** Encode a picture. @param texts by keyword, e.g. `parameters` */
export function encodePng(
  { width, height, data }: Picture,
  texts: Readonly<Record<string, string>> = {},
): Uint8Array {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', header),
    ...Object.entries(texts).map(([keyword, text]) => textChunk(keyword, text)),
    chunk('IDAT', deflateSync(filtered(data, width * 3, height), { level: 9 })),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(type: string, content: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), content]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(content.length, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

function textChunk(keyword: string, text: string): Buffer {
  if (!KEYWORD.test(keyword)) throw new Error(`internal: PNG keyword ${JSON.stringify(keyword)}`);
  const latin = [...text].every((char) => char.codePointAt(0)! < 256 && char !== '\0');
  if (latin) return chunk('tEXt', Buffer.from(`${keyword}\0${text}`, 'latin1'));
  const head = Buffer.from(`${keyword}\0\0\0\0\0`, 'latin1');
  return chunk('iTXt', Buffer.concat([head, Buffer.from(text, 'utf8')]));
}

/** Rows with the filter that leaves the smallest sum of magnitudes, the usual heuristic. */
function filtered(data: Uint8Array, stride: number, height: number): Uint8Array {
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

/**
 * The texts of a PNG file by keyword (`tEXt`, `zTXt` and `iTXt`); pixels are not looked at.
 * @throws {FormatError} if it is no PNG, is cut off, or a chunk's checksum is wrong
 */
export async function readPngTexts(file: string): Promise<Map<string, string>> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (cause) {
    throw new FormatError(file, 'cannot be read', { cause });
  }
  if (!bytes.subarray(0, 8).equals(SIGNATURE)) throw new FormatError(file, 'expected a PNG picture');
  const texts = new Map<string, string>();
  for (let at = 8; ; ) {
    if (at + 12 > bytes.length) throw new FormatError(file, 'PNG ends before its end chunk; cut off?');
    const length = bytes.readUInt32BE(at);
    if (at + 12 + length > bytes.length) throw new FormatError(file, 'PNG chunk runs past the end; cut off?');
    const body = bytes.subarray(at + 4, at + 8 + length);
    if (crc32(body) !== bytes.readUInt32BE(at + 8 + length)) {
      throw new FormatError(file, 'PNG chunk has a wrong checksum; damaged?');
    }
    const type = body.toString('latin1', 0, 4);
    if (type === 'IEND') return texts;
    if (type === 'tEXt' || type === 'zTXt' || type === 'iTXt') {
      const [keyword, text] = decodeText(file, type, body.subarray(4));
      texts.set(keyword, text);
    }
    at += 12 + length;
  }
}

function decodeText(file: string, type: string, content: Buffer): [string, string] {
  const end = content.indexOf(0);
  if (end < 1) throw new FormatError(file, `PNG ${type} chunk has no keyword`);
  const keyword = content.toString('latin1', 0, end);
  const inflate = (packed: Uint8Array): Buffer => {
    try {
      return inflateSync(packed, { maxOutputLength: MAX_TEXT_BYTES });
    } catch (cause) {
      throw new FormatError(file, `PNG text "${keyword}" cannot be unpacked`, { cause });
    }
  };
  if (type === 'tEXt') return [keyword, content.toString('latin1', end + 1)];
  if (type === 'zTXt') return [keyword, inflate(content.subarray(end + 2)).toString('latin1')];
  const language = content.indexOf(0, end + 3);
  const translated = language < 0 ? -1 : content.indexOf(0, language + 1);
  if (translated < 0) throw new FormatError(file, `PNG text "${keyword}" is cut off`);
  const text = content.subarray(translated + 1);
  return [keyword, (content[end + 1] === 1 ? inflate(text) : text).toString('utf8')];
}
