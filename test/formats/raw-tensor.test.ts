import { describe, expect, it } from 'vitest';
import { FormatError, ShapeError } from '../../src/errors.ts';
import {
  elementCount,
  float32Tensor,
  isContiguous,
  memoryTensor,
  readBytes,
  readFloat32,
  readFloat64,
  sliceRows,
} from '../../src/formats/raw-tensor.ts';

const counting = (count: number) => Float32Array.from({ length: count }, (_, i) => i);

describe('views', () => {
  const base = float32Tensor('w', [3, 4], counting(12));

  it('transposed, expanded, shifted', () => {
    expect([...readFloat32({ ...base, shape: [4, 3], strides: [1, 4] })]).toEqual([
      0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11,
    ]);
    expect([...readFloat32({ ...base, shape: [2, 3], strides: [0, 2], storageOffset: 1 })]).toEqual([
      1, 3, 5, 1, 3, 5,
    ]);
    expect([...readFloat32({ ...base, shape: [], strides: [], storageOffset: 7 })]).toEqual([7]);
    expect(readFloat32({ ...base, shape: [0, 5], strides: [9, 9], storageOffset: 12 }).length).toBe(0);
  });

  it('are contiguous whatever the strides of axes of size 1', () => {
    expect(isContiguous({ ...base, shape: [1, 3, 4], strides: [99, 4, 1] })).toBe(true);
    expect(isContiguous({ ...base, shape: [3, 4], strides: [4, 2] })).toBe(false);
  });

  it('do not copy aligned float32', () => {
    const data = counting(12);
    expect(readFloat32(float32Tensor('w', [12], data)).buffer).toBe(data.buffer);
  });

  it('decode unaligned bytes', () => {
    const bytes = new Uint8Array(new Float32Array([1, 2]).buffer);
    const shifted = new Uint8Array(9);
    shifted.set(bytes, 1);
    expect([...readFloat32(memoryTensor('w', 'F32', [2], shifted.subarray(1)))]).toEqual([1, 2]);
  });
});

describe('sliceRows', () => {
  it('views some rows of a table, also of a transposed one', () => {
    const table = float32Tensor('w', [4, 3], counting(12));
    expect([...readFloat32(sliceRows(table, 1, 2))]).toEqual([3, 4, 5, 6, 7, 8]);
    const transposed = { ...table, shape: [3, 4], strides: [1, 3] };
    expect([...readFloat32(sliceRows(transposed, 2, 1))]).toEqual([2, 5, 8, 11]);
    expect([...readFloat32(sliceRows(sliceRows(table, 1, 3), 1, 1))]).toEqual([6, 7, 8]);
    expect([...readFloat32(sliceRows({ ...transposed, shape: [3, 3], storageOffset: 3 }, 2, 1))]).toEqual([
      5, 8, 11,
    ]);
    expect(() => sliceRows(table, 3, 2)).toThrow(ShapeError);
    expect(() => sliceRows(table, -1, 1)).toThrow(ShapeError);
    expect(() => sliceRows(float32Tensor('s', [], counting(1)), 0, 0)).toThrow(ShapeError);
  });
});

describe('numbers', () => {
  it('64-bit integers are exact in float64 up to 2^53', () => {
    const values = BigInt64Array.of(-(2n ** 53n), 5n);
    const tensor = memoryTensor('i', 'I64', [2], new Uint8Array(values.buffer));
    expect([...readFloat64(tensor)]).toEqual([-(2 ** 53), 5]);
  });

  it('complex and packed numbers are refused by name', () => {
    const complex = memoryTensor('z', 'C64', [1], new Uint8Array(8));
    expect(() => readFloat32(complex)).toThrow(FormatError);
    expect(() => readFloat64(complex)).toThrow(/"z"/);
    expect(readBytes(memoryTensor('f', 'F4', [4], new Uint8Array(2))).length).toBe(2);
  });

  it('sizes that overflow are no count', () => {
    expect(elementCount([])).toBe(1);
    expect(elementCount([0, 2 ** 40])).toBe(0);
    expect(elementCount([0, 2 ** 40, 2 ** 40])).toBeNaN();
    expect(elementCount([-1])).toBeNaN();
    expect(elementCount([1.5])).toBeNaN();
    expect(() => float32Tensor('w', [3], counting(2))).toThrow(ShapeError);
  });
});
