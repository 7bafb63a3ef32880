import { describe, expect, it } from 'vitest';
import { type DType, decodeFloat64, dtypeWidth, isDecodable } from '../../src/formats/dtype.ts';
import { areFinite } from '../../src/formats/finite.ts';
import { uniform } from '../support/matrices.ts';

const kinds: DType[] = ['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2'];

/** Bytes of numbers that are all finite, from an offset of a larger buffer. */
function finiteBytes(dtype: DType, count: number, offset: number, seed: number): Uint8Array {
  const width = dtypeWidth(dtype);
  const next = uniform(seed);
  const bytes = new Uint8Array(new ArrayBuffer(offset + count * width), offset);
  for (let i = 0; i < count; i++) {
    const own = bytes.subarray(i * width, (i + 1) * width);
    do for (let b = 0; b < width; b++) own[b] = Math.floor(256 * next());
    while (!Number.isFinite(decodeFloat64(own.slice(), dtype)[0]));
  }
  return bytes;
}

/** Every bit of the exponent set, with either sign: the largest that is no number. */
const WRONG: Partial<Record<DType, number[][]>> = {
  F32: [
    [0, 0, 0x80, 0x7f],
    [0, 0, 0x80, 0xff],
    [1, 0, 0x80, 0x7f],
    [0xff, 0xff, 0xff, 0xff],
  ],
  F16: [
    [0, 0x7c],
    [0, 0xfc],
    [1, 0x7c],
    [0xff, 0xff],
  ],
  BF16: [
    [0x80, 0x7f],
    [0x80, 0xff],
    [0x81, 0x7f],
    [0xff, 0xff],
  ],
  F64: [[0, 0, 0, 0, 0, 0, 0xf0, 0x7f]],
  F8_E5M2: [[0x7c], [0xfe]],
  F8_E4M3: [[0x7f]],
};

describe.each(kinds)('%s', (dtype) => {
  const width = dtypeWidth(dtype);
  it('is finite unless one number is not, at whatever place', () => {
    for (const offset of [0, width, 4 * width]) {
      for (const count of [0, 1, 2, 7, 8]) {
        const bytes = finiteBytes(dtype, count, offset, 7 * count + offset);
        expect(areFinite(bytes, dtype), `${count} from ${offset}`).toBe(true);
        for (let place = 0; place < count; place++) {
          for (const wrong of WRONG[dtype]!) {
            const broken = finiteBytes(dtype, count, offset, 7 * count + offset);
            broken.set(wrong, place * width);
            expect(areFinite(broken, dtype), `${wrong} at ${place} of ${count} from ${offset}`).toBe(false);
          }
        }
      }
    }
  });
});

it('whole numbers and what cannot be decoded are taken as they are', () => {
  for (const dtype of ['I64', 'U8', 'BOOL', 'C64'] as const)
    expect(areFinite(new Uint8Array(16).fill(0xff), dtype), dtype).toBe(true);
  expect(isDecodable('C64')).toBe(false);
});
