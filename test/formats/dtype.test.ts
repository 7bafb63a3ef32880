import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bfloat16ToFloat,
  decodeFloat32,
  decodeFloat64,
  encodeFloat,
  floatToBfloat16,
  floatToHalf,
  halfToFloat,
} from '../../src/formats/dtype.ts';

/** The nearest of all finite codes by search: slow and plainly right. */
function nearestCode(value: number, decode: (code: number) => number, top: number): number {
  let best = 0;
  for (let code = 0; code < top; code++) {
    const closer = Math.abs(decode(code) - value) - Math.abs(decode(best) - value);
    if (closer < 0 || (closer === 0 && code % 2 === 0)) best = code;
  }
  return best;
}

describe('half', () => {
  it('rounds in bulk as one by one, whatever the bits', () => {
    const bits = new Uint32Array(512 * 40);
    let state = 1;
    for (let i = 0; i < bits.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      // Every sign and exponent, with significands at ties, ends and at random.
      const significands = [
        0,
        1,
        0xfff,
        0x1000,
        0x1001,
        0x3000,
        0x7fffff,
        state & 0x7fffff,
        state & 0x7fe000,
      ];
      bits[i] = (((i % 512) << 23) | significands[Math.floor(i / 512) % significands.length]!) >>> 0;
    }
    const values = new Float32Array(bits.buffer);
    const halves = new Uint16Array(encodeFloat(values, 'F16').buffer);
    const wrong = [...halves].findIndex(
      (half, i) => half !== floatToHalf(values[i]!) && !Number.isNaN(values[i]!),
    );
    expect(wrong).toBe(-1);
    expect([...halves].every((half, i) => Number.isNaN(halfToFloat(half)) === Number.isNaN(values[i]!))).toBe(
      true,
    );
  });

  it('every code survives decoding and encoding', () => {
    for (let code = 0; code < 0x10000; code++) {
      const value = halfToFloat(code);
      if (Number.isNaN(value)) expect(halfToFloat(floatToHalf(value))).toBeNaN();
      else if (floatToHalf(value) !== code) expect([code, floatToHalf(value)]).toEqual([code, code]);
    }
  });

  it('rounds to the nearest, ties to even', () => {
    const codes = Float64Array.from({ length: 0x7c00 }, (_, code) => halfToFloat(code));
    fc.assert(
      fc.property(fc.float({ min: 0, max: 65504, noNaN: true }), (value) => {
        expect(floatToHalf(value)).toBe(nearestCode(value, (code) => codes[code]!, codes.length));
      }),
      { numRuns: 30 },
    );
    expect(floatToHalf(65519.996)).toBe(0x7bff);
    expect(floatToHalf(65520)).toBe(0x7c00);
    expect(floatToHalf(2 ** -25)).toBe(0);
    expect(floatToHalf(-(2 ** -25) * 1.0001)).toBe(0x8001);
  });
});

describe('bfloat16', () => {
  it('every code survives decoding and encoding', () => {
    for (let code = 0; code < 0x10000; code++) {
      const value = bfloat16ToFloat(code);
      if (!Number.isNaN(value) && floatToBfloat16(value) !== code) expect(floatToBfloat16(value)).toBe(code);
    }
    expect(bfloat16ToFloat(floatToBfloat16(Number.NaN))).toBeNaN();
    expect(floatToBfloat16(3.4e38)).toBe(0x7f80);
  });
});

describe('bulk conversion', () => {
  it('agrees with the single conversions', () => {
    const values = Float32Array.of(0, -0, 1.5, -65504, 1e-7, Infinity, 0.1);
    expect([...decodeFloat32(encodeFloat(values, 'F16'), 'F16')]).toEqual(
      [...values].map((value) => halfToFloat(floatToHalf(value))),
    );
    expect([...decodeFloat32(encodeFloat(values, 'BF16'), 'BF16')]).toEqual(
      [...values].map((value) => bfloat16ToFloat(floatToBfloat16(value))),
    );
    expect([...decodeFloat64(encodeFloat(values, 'F64'), 'F64')]).toEqual([...values]);
    expect([...decodeFloat32(encodeFloat(values.subarray(2, 4), 'F32'), 'F32')]).toEqual([1.5, -65504]);
  });
});
