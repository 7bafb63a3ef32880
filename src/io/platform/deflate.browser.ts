/** Deflate (RFC 1951) and zlib streams (RFC 1950), unpacked here and packed by the browser. The same names as in `deflate.ts`. */
import { joinBytes } from '../bytes.ts';

const CRC = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});

export function crc32(bytes: Uint8Array, before = 0): number {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ CRC[(crc ^ bytes[i]!) & 255]!;
  return ~crc >>> 0;
}

/** Bits of a stream, the lowest first. */
class Bits {
  at = 0;
  readonly bytes: Uint8Array;
  #held = 0;
  #count = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  take(count: number): number {
    while (this.#count < count) {
      if (this.at === this.bytes.length) throw new Error('unexpected end of file');
      this.#held |= this.bytes[this.at++]! << this.#count;
      this.#count += 8;
    }
    const value = this.#held & ((1 << count) - 1);
    this.#held >>>= count;
    this.#count -= count;
    return value;
  }

  /** Go on at the next whole byte. */
  align(): void {
    this.#held = 0;
    this.#count = 0;
  }
}

const MAX_LENGTH = 15;

/** A canonical Huffman code: how many symbols have each length, and the symbols by their codes. */
class Code {
  readonly #counts = new Uint16Array(MAX_LENGTH + 1);
  readonly #symbols: Uint16Array;

  /** @throws {Error} if more codes are used than there are */
  constructor(lengths: ArrayLike<number>) {
    for (let i = 0; i < lengths.length; i++) this.#counts[lengths[i]!]!++;
    this.#counts[0] = 0;
    const offsets = new Uint16Array(MAX_LENGTH + 2);
    let left = 1;
    for (let length = 1; length <= MAX_LENGTH; length++) {
      left = 2 * left - this.#counts[length]!;
      if (left < 0) throw new Error('invalid code lengths set');
      offsets[length + 1] = offsets[length]! + this.#counts[length]!;
    }
    this.#symbols = new Uint16Array(offsets[MAX_LENGTH + 1]!);
    for (let i = 0; i < lengths.length; i++) if (lengths[i]! > 0) this.#symbols[offsets[lengths[i]!]!++] = i;
  }

  read(bits: Bits): number {
    let [code, first, index] = [0, 0, 0];
    for (let length = 1; length <= MAX_LENGTH; length++) {
      code |= bits.take(1);
      const count = this.#counts[length]!;
      if (code - first < count) return this.#symbols[index + code - first]!;
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new Error('invalid code');
  }
}

/** What is unpacked so far, never more than allowed. */
class Output {
  #bytes = new Uint8Array(1 << 12);
  #length = 0;
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  #grow(by: number): void {
    const wanted = this.#length + by;
    if (wanted > this.#max) throw new RangeError(`expected at most ${this.#max} bytes when unpacking`);
    if (wanted <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.min(this.#max, Math.max(wanted, 2 * this.#bytes.length)));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
  }

  put(byte: number): void {
    this.#grow(1);
    this.#bytes[this.#length++] = byte;
  }

  putAll(bytes: Uint8Array): void {
    this.#grow(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Bytes from `distance` back once more; they may reach into themselves. */
  repeat(distance: number, length: number): void {
    if (distance > this.#length) throw new Error('invalid distance too far back');
    this.#grow(length);
    for (let i = 0; i < length; i++, this.#length++)
      this.#bytes[this.#length] = this.#bytes[this.#length - distance]!;
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }
}

/** Lengths 3 to 258 and distances from 1 on: where each symbol begins, and how many bits follow it. */
const stretches = (first: number, extra: readonly number[]): number[] =>
  extra.map((_, i) => extra.slice(0, i).reduce((sum, bits) => sum + 2 ** bits, first));
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const LENGTHS = stretches(3, LENGTH_BITS).with(28, 258);
const DISTANCE_BITS = Array.from({ length: 30 }, (_, i) => Math.max(0, (i >> 1) - 1));
const DISTANCES = stretches(1, DISTANCE_BITS);

const fixedLengths = (symbol: number): number => (symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8);
const FIXED = {
  literals: new Code(Array.from({ length: 288 }, (_, symbol) => fixedLengths(symbol))),
  distances: new Code(new Array<number>(30).fill(5)),
};

const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

function ownCodes(bits: Bits): typeof FIXED {
  const [literals, distances, used] = [bits.take(5) + 257, bits.take(5) + 1, bits.take(4) + 4];
  if (literals > 286 || distances > 30) throw new Error('too many length or distance symbols');
  const first = new Uint8Array(19);
  for (let i = 0; i < used; i++) first[ORDER[i]!] = bits.take(3);
  const code = new Code(first);
  const lengths: number[] = [];
  while (lengths.length < literals + distances) {
    const symbol = code.read(bits);
    if (symbol < 16) {
      lengths.push(symbol);
      continue;
    }
    if (symbol === 16 && lengths.length === 0) throw new Error('invalid bit length repeat');
    const value = symbol === 16 ? lengths.at(-1)! : 0;
    const times = symbol === 16 ? 3 + bits.take(2) : symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7);
    for (let i = 0; i < times; i++) lengths.push(value);
  }
  if (lengths.length > literals + distances) throw new Error('invalid bit length repeat');
  return { literals: new Code(lengths.slice(0, literals)), distances: new Code(lengths.slice(literals)) };
}

function unpack(bits: Bits, maxBytes: number): Uint8Array {
  const output = new Output(maxBytes);
  for (let last = false; !last; ) {
    last = bits.take(1) === 1;
    const kind = bits.take(2);
    if (kind === 3) throw new Error('invalid block type');
    if (kind === 0) {
      bits.align();
      const [length, inverse] = [bits.take(16), bits.take(16)];
      if ((length ^ 0xffff) !== inverse) throw new Error('invalid stored block lengths');
      if (bits.at + length > bits.bytes.length) throw new Error('unexpected end of file');
      output.putAll(bits.bytes.subarray(bits.at, bits.at + length));
      bits.at += length;
      continue;
    }
    const { literals, distances } = kind === 1 ? FIXED : ownCodes(bits);
    for (;;) {
      const symbol = literals.read(bits);
      if (symbol === 256) break;
      if (symbol < 256) {
        output.put(symbol);
        continue;
      }
      if (symbol > 285) throw new Error('invalid literal/length code');
      const length = LENGTHS[symbol - 257]! + bits.take(LENGTH_BITS[symbol - 257]!);
      const far = distances.read(bits);
      if (far > 29) throw new Error('invalid distance code');
      output.repeat(DISTANCES[far]! + bits.take(DISTANCE_BITS[far]!), length);
    }
  }
  return output.finish();
}

export function inflateRaw(packed: Uint8Array, maxBytes: number): Uint8Array {
  return unpack(new Bits(packed), maxBytes);
}

export function inflate(packed: Uint8Array, maxBytes: number): Uint8Array {
  const [method, flags] = [packed[0] ?? 0, packed[1] ?? 0];
  if ((method & 15) !== 8 || ((method << 8) | flags) % 31 !== 0 || (flags & 32) !== 0)
    throw new Error('incorrect header check');
  const bits = new Bits(packed);
  bits.at = 2;
  const bytes = unpack(bits, maxBytes);
  bits.align();
  let sum = 0;
  for (let i = 0; i < 4; i++) sum = sum * 256 + bits.take(8);
  if (sum !== adler32(bytes)) throw new Error('incorrect data check');
  return bytes;
}

function adler32(bytes: Uint8Array): number {
  let [a, b] = [1, 0];
  for (let i = 0; i < bytes.length; i++) {
    a = (a + bytes[i]!) % 65521;
    b = (b + a) % 65521;
  }
  return b * 65536 + a;
}

export async function deflateAside(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([bytes as Uint8Array<ArrayBuffer>])
    .stream()
    .pipeThrough(new CompressionStream('deflate'));
  const parts: Uint8Array[] = [];
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return joinBytes(parts);
    parts.push(value);
  }
}
