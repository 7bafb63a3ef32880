import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { levelInputs } from '../../src/models/unet/region-attention.ts';
import {
  areaAverage,
  checkRegion,
  coverage,
  type Region,
  type RegionShape,
} from '../../src/sampling/region.ts';
import { boxMask, feathered, pictureMask, polygonMask } from '../../src/sampling/region-mask.ts';
import { sharePicture, sourceWeights } from '../../src/sampling/region-shares.ts';

const box = (left: number, top: number, right: number, bottom: number): RegionShape => ({
  kind: 'box',
  box: { top, left, bottom, right },
});
const region = (shape: RegionShape, weight?: number): Region => ({
  prompt: '',
  shape,
  ...(weight === undefined ? {} : { weight }),
});
const unit = fc.double({ min: 0, max: 1, noNaN: true });
const anyRegion = fc
  .tuple(unit, unit, unit, unit, fc.double({ min: 0.1, max: 5, noNaN: true }))
  .map(([a, b, c, d, weight]) =>
    region(box(Math.min(a, b), Math.min(c, d), Math.max(a, b), Math.max(c, d)), weight),
  );

describe('weights of context and regions', () => {
  it('sum to one everywhere, and the context rules where nothing covers', () => {
    fc.assert(
      fc.property(fc.array(anyRegion, { maxLength: 4 }), fc.integer({ min: 1, max: 9 }), (regions, size) => {
        const weights = sourceWeights(regions, size, size);
        const covers = regions.map(({ shape }) => coverage(shape, size, size));
        for (let n = 0; n < size * size; n++) {
          expect(weights.reduce((sum, own) => sum + own[n]!, 0)).toBeCloseTo(1, 5);
          const covered = covers.some((cover) => cover[n]! > 0);
          expect(weights[0]![n]).toBe(covered ? 0 : 1);
        }
      }),
    );
  });

  it('are the average by count for boxes, and follow the regions’ weights', () => {
    const [whole, half] = [region(box(0, 0, 1, 1)), region(box(0, 0, 0.5, 1))];
    expect(sourceWeights([whole, half], 1, 2).map((own) => [...own])).toEqual([
      [0, 0],
      [0.5, 1],
      [0.5, 0],
    ]);
    const weighted = sourceWeights([whole, region(box(0, 0, 0.5, 1), 3)], 1, 2);
    expect([...weighted[2]!]).toEqual([0.75, 0]);
  });

  it('share a half-covered cell with the context', () => {
    const mask: RegionShape = { kind: 'mask', mask: { width: 2, height: 1, data: Float32Array.of(0.25, 1) } };
    const [context, own] = sourceWeights([region(mask)], 1, 2);
    expect([...context!]).toEqual([0.75, 0]);
    expect([...own!]).toEqual([0.25, 1]);
  });
});

describe('the layout of a shared picture', () => {
  it('puts every row together again from the rows that are computed', () => {
    fc.assert(
      fc.property(fc.array(anyRegion, { maxLength: 4 }), (regions) => {
        const [height, width] = [5, 7];
        const tokens = regions.map(() => 77);
        const { layout, feeds } = sharePicture(regions, [77, ...tokens], [{ height, width }], true);
        const { rows, depth, parts } = layout.levels[0]!;
        const picked = [...(feeds[levelInputs.rows(0)]!.data as BigInt64Array)].map(Number);
        expect(picked.length).toBe(rows.reduce((a, b) => a + b, 0));
        // Attend with the identity: each computed row returns its own number.
        const result = new Array<number>(height * width).fill(0);
        for (let overlap = 0; overlap < depth; overlap++) {
          const places = feeds[levelInputs.places(0, overlap)]!.data as BigInt64Array;
          const weights = feeds[levelInputs.weights(0, overlap)]!.data as Float32Array;
          for (let n = 0; n < result.length; n++) result[n]! += weights[n]! * picked[Number(places[n])]!;
        }
        expect(result).toBeAllClose([...result.keys()], { rtol: 1e-5, atol: 1e-5 });
        const order = [...(feeds[levelInputs.partRows(0)]!.data as BigInt64Array)].map(Number);
        expect(order.toSorted((a, b) => a - b)).toEqual([...result.keys()]);
        expect(parts!.reduce((a, b) => a + b, 0)).toBe(result.length);
      }),
    );
  });
});

describe('shapes', () => {
  it('average over cells without losing area', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 1, max: 12 }),
        fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })),
        (width, height, size, stream) => {
          const data = Float32Array.from({ length: width * height }, () => stream.next().value!);
          const mean = (values: Float32Array): number => values.reduce((a, b) => a + b, 0) / values.length;
          expect(mean(areaAverage({ width, height, data }, size, size))).toBeCloseTo(mean(data), 5);
        },
      ),
    );
  });

  it('polygons cover their area, exactly where edges lie on pixels', () => {
    const square = polygonMask(
      [
        [0.25, 0.25],
        [0.75, 0.25],
        [0.75, 0.75],
        [0.25, 0.75],
      ],
      8,
      8,
    );
    expect(square.data).toEqual(boxMask({ top: 0.25, left: 0.25, bottom: 0.75, right: 0.75 }, 8, 8).data);
    const triangle = polygonMask(
      [
        [0, 0],
        [1, 0],
        [0, 1],
      ],
      32,
      32,
    );
    expect(triangle.data.reduce((a, b) => a + b, 0) / 1024).toBeCloseTo(0.5, 1);
    expect(() =>
      polygonMask(
        [
          [0, 0],
          [1, 1],
        ],
        8,
        8,
      ),
    ).toThrow(/three corners/);
  });

  it('fade at their edges but not at the border of the picture', () => {
    const soft = feathered(boxMask({ top: 0, left: 0, bottom: 1, right: 0.5 }, 16, 4), 3).data;
    expect(soft[0]).toBe(1);
    expect(soft[15]).toBe(0);
    for (let x = 1; x < 16; x++) expect(soft[x]!).toBeLessThanOrEqual(soft[x - 1]!);
    expect(soft[7]!).toBeGreaterThan(0.5);
    expect(soft[8]!).toBeLessThan(0.5);
  });

  it('masks take any size', () => {
    const mask = pictureMask({ width: 2, height: 1, data: Uint8Array.of(255, 0) }, 4, 2);
    expect([...mask.data]).toEqual([1, 1, 0, 0, 1, 1, 0, 0]);
  });

  it('are refused outside the picture, inside out, or too small', () => {
    expect(() => checkRegion('region 1', box(0.5, 0, 1.5, 1), 8, 8)).toThrow(
      /region 1: expected a box inside/,
    );
    expect(() => checkRegion('region 1', box(0.5, 0, 0.2, 1), 8, 8)).toThrow(/left < right/);
    expect(() => checkRegion('region 1', box(0.5, 0, 0.55, 1), 8, 8)).toThrow(/no whole cell/);
  });
});
