/** Random tensors for property tests of the formats. */
import fc from 'fast-check';
import { DTYPES, type DType, dtypeWidth } from '../../src/formats/dtype.ts';
import { elementCount, memoryTensor, type RawTensor, rowMajorStrides } from '../../src/formats/raw-tensor.ts';

/** Names as people and attackers write them. */
export const tensorName = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.constantFrom('__proto__', 'constructor', 'toString', '', 'a.b', '"\\/', 'ü 你 😀', '\u0000'),
);

/** A tensor of random dtype, shape and bytes; a third of them are transposed views. */
export function randomTensor(dtypes: readonly DType[] = DTYPES): fc.Arbitrary<RawTensor> {
  return fc
    .record({
      name: tensorName,
      dtype: fc.constantFrom(...dtypes),
      shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
      seed: fc.integer({ min: 0, max: 255 }),
      layout: fc.constantFrom('plain', 'plain', 'transposed'),
    })
    .map(({ name, dtype, shape: sizes, seed, layout }) => {
      // F4 packs two numbers a byte.
      const shape = dtype === 'F4' ? [...sizes, 2] : sizes;
      const bytes = Uint8Array.from(
        { length: elementCount(shape) * dtypeWidth(dtype) },
        (_, i) => (i * 37 + seed) & 0xff,
      );
      const tensor = memoryTensor(name, dtype, shape, bytes);
      if (layout === 'plain' || dtype === 'F4') return tensor;
      return { ...tensor, shape: shape.toReversed(), strides: rowMajorStrides(shape).toReversed() };
    });
}

/** Several tensors of distinct names. */
export function randomTensors(dtypes?: readonly DType[]): fc.Arbitrary<RawTensor[]> {
  return fc.uniqueArray(randomTensor(dtypes), { maxLength: 6, selector: ({ name }) => name });
}
