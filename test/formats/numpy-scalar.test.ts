/** Scalars of numpy as checkpoints hold them; other kinds, sizes and orders of bytes are refused. */
import { describe, expect, it } from 'vitest';
import { type NumpyDtype, numpyDtype, numpyScalar, setByteOrder } from '../../src/formats/numpy-scalar.ts';
import type { PickleValue } from '../../src/formats/pickle-value.ts';

const fail = (message: string): never => {
  throw new Error(message);
};
const dtypeOf = (code: string) => numpyDtype([code], fail as never) as NumpyDtype;

/** Little-endian bytes of −2 (254 and so on without a sign), and what they are. */
const CASES: readonly (readonly [string, number[], PickleValue])[] = [
  ['f8', [0, 0, 0, 0, 0, 0, 0, 0xc0], -2],
  ['f4', [0, 0, 0, 0xc0], -2],
  ['i8', [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], -2],
  ['i4', [0xfe, 0xff, 0xff, 0xff], -2],
  ['i2', [0xfe, 0xff], -2],
  ['i1', [0xfe], -2],
  ['u8', [2, 1, 0, 0, 0, 0, 0, 0], 258],
  ['u4', [0xfe, 0xff, 0xff, 0xff], 2 ** 32 - 2],
  ['u2', [0xfe, 0xff], 65_534],
  ['u1', [0xfe], 254],
  ['b1', [1], true],
  ['b1', [0], false],
];

describe('a scalar of numpy', () => {
  it.each(CASES)('of %s from %j is %j', (code, bytes, expected) => {
    const scalar = (length: number) =>
      numpyScalar([dtypeOf(code), Uint8Array.from({ length }, (_, i) => bytes[i] ?? 0)], fail as never);
    expect(scalar(bytes.length)).toBe(expected);
    expect(() => scalar(bytes.length + 1)).toThrow(/expected a numpy scalar/);
    expect(() => scalar(bytes.length - 1)).toThrow(/expected a numpy scalar/);
  });

  it('has a dtype and bytes, and nothing else', () => {
    const bytes = new Uint8Array(8);
    for (const args of [
      [],
      [dtypeOf('f8')],
      ['f8', bytes],
      [dtypeOf('f8'), 'text'],
      [dtypeOf('f8'), bytes, bytes],
    ])
      expect(() => numpyScalar(args as PickleValue[], fail as never)).toThrow(/expected a numpy scalar/);
    for (const code of ['O8', 'toString', 'f2']) expect(() => dtypeOf(code)).toThrow(/expected the dtype/);
  });
});

it('is in little-endian order, or in none', () => {
  const state = (order: string): PickleValue =>
    ({ kind: 'tuple', items: [3, order, null] }) as unknown as PickleValue;
  for (const order of ['<', '|', '=']) {
    const dtype = dtypeOf('f8');
    setByteOrder(dtype, state(order), fail as never);
    expect(dtype.byteOrder).toBe(order);
  }
  for (const wrong of [state('>'), state(''), null])
    expect(() => setByteOrder(dtypeOf('f8'), wrong, fail as never)).toThrow(/little-endian/);
});
