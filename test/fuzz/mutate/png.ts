/** PNG files, chunk by chunk, with true checksums: other contents, order, lengths; JSON in texts as JSON. */
import { crc32 } from 'node:zlib';
import type { Random } from '../random.ts';
import { mutateBytes } from './bytes.ts';
import { mutateJson } from './json.ts';
import { mutateText } from './text.ts';

interface Chunk {
  type: string;
  data: Buffer;
}

function readChunks(bytes: Buffer): Chunk[] {
  const chunks: Chunk[] = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    chunks.push({
      type: bytes.toString('latin1', at + 4, at + 8),
      data: bytes.subarray(at + 8, at + 8 + length),
    });
    at += 12 + length;
  }
  return chunks;
}

function writeChunk({ type, data }: Chunk): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  body.copy(framed, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

/** The text after the keyword, otherwise. */
function changedText(random: Random, data: Buffer, words: readonly string[]): Buffer {
  const end = data.indexOf(0);
  const text = data.toString('utf8', end + 1);
  const brace = text.indexOf('{');
  if (brace >= 0 && random.chance(0.8)) {
    try {
      const changed = mutateJson(random, text.slice(brace), words);
      return Buffer.concat([data.subarray(0, end + 1), Buffer.from(text.slice(0, brace) + changed)]);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  return Buffer.concat([data.subarray(0, end + 1), Buffer.from(mutateText(random, text))]);
}

const TYPES = [
  'IHDR',
  'IDAT',
  'IEND',
  'tEXt',
  'zTXt',
  'iTXt',
  'PLTE',
  'tRNS',
  'gAMA',
  'iCCP',
  'eXIf',
  'acTL',
  'fcTL',
  'aaaa',
];

/** A damaged picture. @param words of the scene in it */
export function mutatePng(random: Random, bytes: Uint8Array, words: readonly string[] = []): Buffer {
  const chunks = readChunks(Buffer.from(bytes));
  const texts = chunks.filter(({ type }) => /EXt|XTt|TXt/i.test(type));
  for (let i = random.few(3); i > 0 && chunks.length > 0; i--) {
    const at = random.below(chunks.length);
    const chunk = chunks[at]!;
    switch (random.below(9)) {
      case 0:
        chunks.splice(at, 1);
        break;
      case 1:
        chunks.splice(random.below(chunks.length), 0, chunk);
        break;
      case 2:
        chunks[at] = { ...chunk, type: random.pick(TYPES) };
        break;
      case 3:
        chunks[at] = { ...chunk, data: mutateBytes(random, chunk.data) };
        break;
      case 4: {
        const header = chunks.find(({ type }) => type === 'IHDR');
        if (header !== undefined) header.data = mutateBytes(random, header.data).subarray(0, 16);
        break;
      }
      default:
        if (texts.length > 0) {
          const text = random.pick(texts);
          text.data = changedText(random, text.data, words);
        }
    }
  }
  return Buffer.concat([bytes.subarray(0, 8), ...chunks.map(writeChunk)]);
}
