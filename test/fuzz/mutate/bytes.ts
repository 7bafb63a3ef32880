/** Damage that knows nothing of formats: flipped bits, cuts, repetitions, splices, numbers at the ends of their range. */
import type { Random } from '../random.ts';

/** No input grows beyond this. */
export const MAX_INPUT_BYTES = 1 << 18;

const MAGIC: readonly bigint[] = [
  0n,
  1n,
  2n,
  0x7fn,
  0x80n,
  0xffn,
  0x100n,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x10000n,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  0x1fffffffffffffn,
  0x7fffffffffffffffn,
  0x8000000000000000n,
  0xffffffffffffffffn,
];

type Step = (random: Random, bytes: Buffer, other: Uint8Array | null) => Buffer;

const span = (random: Random, { length }: Uint8Array): [from: number, to: number] => {
  const from = random.below(length + 1);
  return [from, Math.min(length, from + random.few(length + 1))];
};

/** Place of a number: aligned more often than not. */
const place = (random: Random, length: number, width: number): number => {
  const at = random.below(Math.max(1, length - width + 1));
  return random.chance(0.7) ? at - (at % width) : at;
};

const steps: readonly Step[] = [
  function flipBits(random, bytes) {
    for (let i = random.few(8); i > 0 && bytes.length > 0; i--) {
      bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
    }
    return bytes;
  },
  function setByte(random, bytes) {
    if (bytes.length > 0) bytes[random.below(bytes.length)] = random.next() & 255;
    return bytes;
  },
  function truncate(random, bytes) {
    return bytes.subarray(0, random.chance(0.5) ? bytes.length - random.few(64) : random.below(bytes.length));
  },
  function cutStart(random, bytes) {
    return bytes.subarray(random.few(64));
  },
  function remove(random, bytes) {
    const [from, to] = span(random, bytes);
    return Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)]);
  },
  function insert(random, bytes) {
    const at = random.below(bytes.length + 1);
    const fill = random.pick([0, 0xff, 0x20, null]);
    const added = Buffer.alloc(random.few(256), fill ?? 0);
    if (fill === null) for (let i = 0; i < added.length; i++) added[i] = random.next() & 255;
    return Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(at)]);
  },
  function repeat(random, bytes) {
    const [from, to] = span(random, bytes);
    const part = bytes.subarray(from, to);
    if (part.length === 0) return bytes;
    const times = random.few(Math.min(512, Math.floor(16384 / part.length)) + 1);
    return Buffer.concat([
      bytes.subarray(0, to),
      ...Array.from({ length: times }, () => part),
      bytes.subarray(to),
    ]);
  },
  function copyOver(random, bytes) {
    const [from, to] = span(random, bytes);
    bytes.copy(bytes, random.below(bytes.length + 1), from, to);
    return bytes;
  },
  function fill(random, bytes) {
    const [from, to] = span(random, bytes);
    return bytes.fill(random.pick([0, 0xff, 0x20, 0x7f, 0x80]), from, to);
  },
  function magicNumber(random, bytes) {
    const width = random.pick([1, 2, 4, 8]);
    const at = place(random, bytes.length, width);
    const value = BigInt.asUintN(8 * width, random.pick(MAGIC));
    for (let i = 0; i < width && at + i < bytes.length; i++)
      bytes[at + i] = Number((value >> BigInt(8 * i)) & 255n);
    if (random.chance(0.3)) bytes.subarray(at, at + width).reverse();
    return bytes;
  },
  function addToNumber(random, bytes) {
    const width = random.pick([1, 2, 4]);
    if (bytes.length < width) return bytes;
    const at = place(random, bytes.length, width);
    const step = random.pick([-1, 1, -2, 2, 8, -8, 64, 256]);
    const mask = width === 4 ? 0xffffffff : 2 ** (8 * width) - 1;
    if (random.chance(0.7)) bytes.writeUIntLE(((bytes.readUIntLE(at, width) + step) & mask) >>> 0, at, width);
    else bytes.writeUIntBE(((bytes.readUIntBE(at, width) + step) & mask) >>> 0, at, width);
    return bytes;
  },
  function splice(random, bytes, other) {
    if (other === null) return bytes;
    const [from, to] = span(random, bytes);
    const [begin, end] = span(random, other);
    return random.chance(0.5)
      ? Buffer.concat([bytes.subarray(0, from), other.subarray(begin)])
      : Buffer.concat([bytes.subarray(0, from), other.subarray(begin, end), bytes.subarray(to)]);
  },
];

/** A damaged copy. @param other a second file of the same kind, to splice in */
export function mutateBytes(random: Random, bytes: Uint8Array, other: Uint8Array | null = null): Buffer {
  let result: Buffer = Buffer.from(bytes);
  for (let i = random.few(4); i > 0; i--) result = random.pick(steps)(random, result, other);
  return result.subarray(0, MAX_INPUT_BYTES);
}
