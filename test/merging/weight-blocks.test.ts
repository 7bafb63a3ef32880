/** Weights in blocks: the same bytes whatever the sizes that they are cut into, and no number that is none. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FormatError, NumericalError } from '../../src/errors.ts';
import { type DType, decodeFloat32, dtypeWidth, encodeFloat } from '../../src/formats/dtype.ts';
import { openTensorFile } from '../../src/formats/open-tensor-file.ts';
import {
  elementCount,
  float32Tensor,
  memoryTensor,
  type RawTensor,
  readFloat32,
} from '../../src/formats/raw-tensor.ts';
import { writeSafetensors } from '../../src/formats/safetensors.ts';
import { FactorAddition, joinFactors } from '../../src/merging/factor-addition.ts';
import { type BakedWeight, type BlockSizes, weightBlocks } from '../../src/merging/weight-blocks.ts';
import { TorchGenerator } from '../../src/tensor/random.ts';
import { randomMatrix } from '../support/matrices.ts';
import { scratch } from './random-adapters.ts';

const addition = new FactorAddition();
afterAll(() => addition.dispose());

const ROWS = 23;
const COLS = 14;
const FACTOR = -0.6;
const delta = { up: randomMatrix(1, ROWS, 3), down: randomMatrix(2, 3, COLS) };
const bias = { values: randomMatrix(3, 1, 9).data, strength: 0.4 };
/** factor · up · down at one place of the weight. */
const changeAt = (row: number, col: number): number =>
  FACTOR *
  [0, 1, 2].reduce((sum, k) => sum + delta.up.data[row * 3 + k]! * delta.down.data[k * COLS + col]!, 0);

let stored: ReadonlyMap<string, RawTensor>;
beforeAll(async () => {
  const generator = new TorchGenerator(5);
  const random = (name: string, dtype: 'F32' | 'F16' | 'BF16', shape: number[]): RawTensor =>
    memoryTensor(name, dtype, shape, encodeFloat(generator.randn(elementCount(shape)), dtype));
  const file = scratch('weights.safetensors');
  await writeSafetensors(file, [
    random('first', 'F32', [5, 7]),
    random('second', 'F32', [11]),
    random('wide', 'F32', [ROWS, COLS]),
    random('half', 'F16', [ROWS, COLS]),
    random('brain', 'BF16', [ROWS, COLS]),
    random('bias', 'F32', [9]),
    random('odd', 'F16', [3]),
  ]);
  stored = (await openTensorFile(file)).tensors;
});

/** Everything that a baked file can hold: unchanged neighbours, sums in every type, biases, other types, views. */
function weights(): BakedWeight[] {
  const as = (name: string, dtype?: DType, change: BakedWeight['change'] = null): BakedWeight => {
    const source = stored.get(name)!;
    return { name, dtype: dtype ?? source.dtype, source, change };
  };
  const factors = (): BakedWeight['change'] => ({
    kind: 'factors',
    rows: ROWS,
    read: () => joinFactors('layer', ROWS, COLS, [{ delta, factor: FACTOR }]),
  });
  const view = { ...stored.get('first')!, shape: [7, 5], strides: [1, 7] };
  return [
    as('first'),
    as('second'),
    as('wide', 'F32', factors()),
    as('half', 'F16', factors()),
    as('brain', 'BF16', factors()),
    as('wide', 'F16', factors()),
    as('half', 'F32', factors()),
    as('bias', 'F32', { kind: 'bias', read: () => [bias] }),
    as('wide', 'F16'),
    as('half', 'F32'),
    { name: 'view', dtype: 'F32', source: view, change: null },
    as('odd'),
    as('first', 'BF16'),
  ];
}

/** Each weight's numbers as they come out, the sizes of the blocks, and the bytes that were announced. */
async function written(sizes?: BlockSizes) {
  const list = weights();
  const blocks: Buffer[] = [];
  let announced = 0;
  // A block is valid until the next but one is asked for.
  for await (const block of weightBlocks(list, addition, (bytes) => (announced += bytes), sizes)) {
    blocks.push(Buffer.from(block));
  }
  const all = Buffer.concat(blocks);
  let at = 0;
  const values = list.map(({ dtype, source }) => {
    const length = elementCount(source.shape) * dtypeWidth(dtype);
    at += length;
    return decodeFloat32(Uint8Array.from(all.subarray(at - length, at)), dtype);
  });
  expect(at).toBe(all.length);
  return { all, values, lengths: blocks.map(({ length }) => length), announced };
}

/** Half a unit in the last place, relative; float32 is summed in float32. */
const rounding: Partial<Record<DType, number>> = { F32: 1e-6, F16: 2 ** -11, BF16: 2 ** -8 };

describe('weights in blocks', () => {
  const expectChanged = (values: readonly Float32Array[]): void => {
    weights().forEach(({ name, dtype, source, change }, i) => {
      const own = values[i]!;
      const expected = readFloat32(source);
      if (change === null && dtype === source.dtype) expect(own, name).toEqual(expected);
      own.forEach((value, j) => {
        const added =
          change === null
            ? 0
            : change.kind === 'bias'
              ? bias.strength * bias.values[j]!
              : changeAt(Math.floor(j / COLS), j % COLS);
        const exact = expected[j]! + added;
        // Subnormal halves are 2⁻²⁴ apart, and sums are rounded once in float32.
        expect(Math.abs(value - exact), `${name}[${j}] as ${dtype}`).toBeLessThanOrEqual(
          1.01 * rounding[dtype]! * Math.abs(exact) + 1e-6,
        );
      });
    });
  };

  it('are what they are changed to', async () => {
    const { values, all, announced, lengths } = await written();
    expectChanged(values);
    expect(announced).toBe(all.length);
    expect(lengths).toEqual([all.length]);
  });

  it.each([
    ['one row at a time', { block: 64, copy: 20, piece: 1 }],
    ['a few rows, blocks that end inside a tensor', { block: 300, copy: 28, piece: 3 * COLS }],
    ['pieces that do not divide the rows', { block: 4096, copy: 100, piece: 5 * COLS + 3 }],
    ['one number a copy', { block: 40, copy: 4, piece: 7 }],
  ])('are the same in small ones: %s', async (_, sizes) => {
    const whole = await written();
    const cut = await written(sizes);
    // The runtime sums a product of one row in another order.
    expectChanged(cut.values);
    if (sizes.piece >= 2 * COLS) expect(cut.all.equals(whole.all)).toBe(true);
    expect(cut.announced).toBe(whole.all.length);
    // Only a row, or a bias, may be larger than a block.
    const largest = Math.max(sizes.block, COLS * 4);
    for (const length of cut.lengths) expect(length).toBeLessThanOrEqual(largest);
    expect(cut.lengths.length).toBeGreaterThanOrEqual(whole.all.length / largest);
  });
});

describe('a number that a type cannot hold', () => {
  const tooLarge = { F16: 70_000, BF16: 3.4e38, F32: Number.POSITIVE_INFINITY } as const;
  const cast = async (dtype: DType, values: Float32Array): Promise<void> => {
    // F32 goes by the way of the bias, as nothing else is made of it.
    const zero = { values: new Float64Array(values.length), strength: 1 };
    const weight: BakedWeight = {
      name: 'w',
      dtype,
      source: float32Tensor('w', [values.length], values),
      change: dtype === 'F32' ? { kind: 'bias', read: () => [zero] } : null,
    };
    for await (const block of weightBlocks([weight], addition, () => {})) expect(block).toBeDefined();
  };

  it.each(['F16', 'BF16', 'F32'] as const)(
    '%s is refused wherever it stands, of either sign, and NaN too',
    async (dtype) => {
      for (const length of [1, 2, 5, 8]) {
        for (let place = 0; place < length; place++) {
          for (const bad of [tooLarge[dtype], -tooLarge[dtype], Number.NaN]) {
            const values = Float32Array.from({ length }, (_, i) => (i === place ? bad : i - 2));
            const refused = cast(dtype, values);
            // What is none in the base already is the file's fault.
            const [kind, message] = Number.isFinite(bad)
              ? [NumericalError, `w: expected numbers that ${dtype} can hold`]
              : [FormatError, 'w: expected finite numbers'];
            await expect(refused, `${bad} at ${place} of ${length}`).rejects.toThrow(kind);
            await expect(refused).rejects.toThrow(message);
          }
        }
      }
    },
  );

  it.each(['F16', 'BF16', 'F32'] as const)(
    '%s: the largest of each sign and the smallest pass',
    async (dtype) => {
      const largest = { F16: 65_504, BF16: 3.3895313892515355e38, F32: 3.4028234663852886e38 }[dtype];
      await cast(dtype, Float32Array.of(largest, -largest, largest, 0, -0, 2 ** -24, -largest));
    },
  );
});

describe('rows of a sum', () => {
  it('take the rows of the factor that stand beside them', async () => {
    const joined = joinFactors('layer', ROWS, COLS, [{ delta, factor: FACTOR }]);
    const [begin, rows] = [7, 4];
    const target = new Float32Array(rows * COLS);
    await addition.addRows(joined, begin, new Float32Array(rows * COLS).fill(2), target);
    target.forEach((value, i) => {
      expect(value).toBeCloseTo(2 + changeAt(begin + Math.floor(i / COLS), i % COLS), 5);
    });
  });

  it('of several changes are their sum, each with its own factor', async () => {
    const other = { up: randomMatrix(4, ROWS, 2), down: randomMatrix(6, 2, COLS) };
    const joined = joinFactors('layer', ROWS, COLS, [
      { delta, factor: FACTOR },
      { delta: other, factor: 2 },
    ]);
    expect(joined.rank).toBe(5);
    const target = new Float32Array(ROWS * COLS);
    await addition.addRows(joined, 0, new Float32Array(ROWS * COLS), target);
    target.forEach((value, i) => {
      const [row, col] = [Math.floor(i / COLS), i % COLS];
      const second = [0, 1].reduce(
        (sum, k) => sum + other.up.data[row * 2 + k]! * other.down.data[k * COLS + col]!,
        0,
      );
      expect(value).toBeCloseTo(changeAt(row, col) + 2 * second, 5);
    });
  });
});
