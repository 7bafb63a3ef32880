import { expect, it } from 'vitest';
import { toPicture, toPlanes } from '../../src/sampling/image-values.ts';

it('planes become pixels, halves to even, and what is outside of [−1, 1] the nearest', () => {
  // Red, green and blue of two pixels; 127.5 / 255 is between two values.
  const planes = Float32Array.of(-1, 1, 0, -3, 0.5, 7);
  expect(toPicture(planes, 1, 2)).toEqual({
    width: 2,
    height: 1,
    data: Uint8Array.of(0, 128, 191, 255, 0, 255),
  });
  expect(toPicture(planes.slice(0, 3), 1, 1)).toMatchObject({ width: 1, height: 1 });
});

it('every value of a pixel survives the way to planes and back', () => {
  const [width, height] = [16, 32];
  const data = Uint8Array.from({ length: 3 * width * height }, (_, i) => (i * 7) & 255);
  const planes = toPlanes({ width, height, data }, true);
  expect(planes.shape).toEqual([1, 3, height, width]);
  expect(toPicture(planes.data, height, width)).toEqual({ width, height, data });
  const unsigned = toPlanes({ width, height, data }, false).data;
  const size = width * height;
  unsigned.forEach((value, i) => {
    const expected = data[3 * (i % size) + Math.floor(i / size)]! / 255;
    expect(value).toBeCloseTo(expected, 6);
    expect(planes.data[i]).toBeCloseTo(2 * expected - 1, 6);
  });
});
